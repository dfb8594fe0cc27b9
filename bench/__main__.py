"""``python -m bench [notify|mmio|mapping|bulk|programs|...]``: measure; a line each, with budget and verdict."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator

import click

from bench.report import Line


def _sections() -> dict[str, Callable[[], Iterator[Line]]]:
    from bench import bulk, guest, interrupted, listing, mapping, mmio, notify, programs

    software = {
        "notify": notify.measure,
        "mmio": mmio.measure,
        "mapping": mapping.measure,
        "bulk": bulk.measure,
        "programs": programs.measure,
        "interrupted": interrupted.measure,
    }
    return software | {"listing": listing.measure, "guest": guest.measure}


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Run the sections NAMES (by default all): medians of one run, budgets, "ok" or "over"."""
    sections = _sections()
    if unknown := set(names) - sections.keys():
        raise click.UsageError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(sections)}")
    click.echo(f"Linux {platform.release()}, CPython {platform.python_version()}, {_processor()}")
    click.echo(f"{'medians':<72}{'':>10} {'':<6}{'budget':>10}")
    for name in names or sections:
        for line in sections[name]():
            click.echo(str(line))
            sys.stdout.flush()


def _processor() -> str:
    with open("/proc/cpuinfo") as info:
        names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    main()
