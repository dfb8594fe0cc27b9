"""What a shell offers for arguments of commands (click's shell completion)."""

from __future__ import annotations

import click


def complete_bdf(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The PCI addresses that begin with what was typed; "01:00.0" for domain 0, too."""
    from ioas.sysfs import Sysfs

    names = [device.bdf for device in Sysfs().devices()]
    return [name for name in names if name.startswith((begun, f"0000:{begun}"))]
