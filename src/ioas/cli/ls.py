"""``ioas ls``: IOMMUs, groups, devices and their drivers, as a tree."""

from __future__ import annotations

import json

import click


@click.command("ls")
@click.option("--machine", metavar="FILE", help="A capture, or a software machine in TOML, instead of this machine.")
@click.option("--json", "as_data", is_flag=True, help="Print the schema ioas.ls, version 1 (docs/doctor.md).")
def ls(machine: str | None, as_data: bool) -> None:
    """Show IOMMUs, their groups, and the PCI functions in them with their drivers."""
    from ioas.inspect import looked_at, take

    with looked_at(machine) as found:
        inventory = take(found)
    if as_data:
        click.echo(json.dumps(inventory.as_json(), indent=2))
        return
    from ioas.inspect.screens import inventory_trees, show

    show(inventory_trees(inventory), found)
