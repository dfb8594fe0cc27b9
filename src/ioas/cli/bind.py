"""``ioas bind`` and ``ioas unbind``: give PCI functions to vfio-pci, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from ioas.cli.complete import complete_bdf

if TYPE_CHECKING:
    from ioas.inspect import Machine
    from ioas.inspect.binding import Change

_group = click.option("--group", is_flag=True, help="Take its whole IOMMU group; bridges stay as they are.")
_dry_run = click.option("--dry-run", is_flag=True, help="Print what would be done, as shell commands; do nothing.")
_json = click.option("--json", "as_data", is_flag=True, help="Print the schema ioas.bind, version 1 (docs/doctor.md).")


@click.command()
@click.argument("bdf", metavar="BDF", required=False, shell_complete=complete_bdf)
@_group
@click.option("--force", is_flag=True, help="Take it even if this machine needs it: a mounted disk, the default route.")
@click.option("--undo", is_flag=True, help="Give back what was taken, or BDF of it, to the drivers that had it before.")
@_dry_run
@_json
def bind(bdf: str | None, group: bool, force: bool, undo: bool, dry_run: bool, as_data: bool) -> None:
    """Give PCI function BDF to vfio-pci. This changes the machine, until `ioas bind --undo` or the next start."""
    from ioas.inspect import check_bdf, looked_at
    from ioas.inspect.binding import RECORD, plan_bind, plan_undo

    if bdf is None and not undo:
        raise click.UsageError("BDF is missing", click.get_current_context())
    with _only_one(dry_run), looked_at(None) as machine:
        full = check_bdf(machine, bdf) if bdf is not None else None
        if undo or full is None:
            changes = plan_undo(machine, RECORD, full)
        else:
            changes = plan_bind(machine, full, group=group, force=force)
        _do(machine, changes, dry_run, as_data)


@click.command()
@click.argument("bdf", metavar="BDF", shell_complete=complete_bdf)
@_group
@_dry_run
@_json
def unbind(bdf: str, group: bool, dry_run: bool, as_data: bool) -> None:
    """Take PCI function BDF from vfio-pci, for the driver that the kernel chooses."""
    from ioas.inspect import check_bdf, looked_at
    from ioas.inspect.binding import plan_unbind

    with _only_one(dry_run), looked_at(None) as machine:
        _do(machine, plan_unbind(machine, check_bdf(machine, bdf), group=group), dry_run, as_data)


def _only_one(dry_run: bool) -> AbstractContextManager[None]:
    """The lock of those who change something."""
    from ioas.inspect.binding import RECORD
    from ioas.inspect.record import locked

    return nullcontext() if dry_run else locked(RECORD)


def _do(machine: Machine, changes: Sequence[Change], dry_run: bool, as_data: bool) -> None:
    """Make the changes, or show them."""
    from ioas.inspect.binding import RECORD, as_json, carry_out, write_step

    if not dry_run:
        carry_out(machine, changes, RECORD, write_step)
    if as_data:
        click.echo(json.dumps(as_json(changes), indent=2))
        return
    for change in changes:
        if dry_run:
            for step in change.steps:
                click.echo(step)
        else:
            now = machine.sysfs.device(change.bdf).driver
            click.echo(f"{change.bdf}: {change.before or 'no driver'} -> {now or 'no driver'}")
    if not changes:
        click.echo("nothing to do")
