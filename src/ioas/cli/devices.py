"""``ioas devices``: the models that --device knows, and their options."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict

import click

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.pci.options import AnyOption

_ADDRESS = "where it stands [the next free of 0000:01:00.0, 0000:02:00.0, ...]"


class _Option(TypedDict):
    """An option of a model."""

    name: str
    default: str | int | bool | float
    help: str
    expected: str


class _Model(TypedDict):
    """A model: what it is, or what is wrong with it (`error`)."""

    name: str
    description: str | None
    error: str | None
    options: list[_Option]


@click.command()
@click.option("--json", "as_data", is_flag=True, help="Print the schema ioas.devices, version 1 (docs/doctor.md).")
def devices(as_data: bool) -> None:
    """List the device models for --device, with their options and defaults."""
    from ioas.soft.host.models import model_names

    models = [_look(name) for name in model_names()]
    if as_data:
        click.echo(json.dumps({"schema": "ioas.devices", "version": 1, "models": models}, indent=2))
        return
    for model in models:
        click.echo("\n".join(_lines(model)))


def _look(name: str) -> _Model:
    from ioas.soft.host.models import load_model

    try:
        model = load_model(name)
        options = [_option(option, declared) for option, declared in model.options().items()]
        return _Model(name=name, description=_first_line(model.__doc__), error=None, options=options)
    except UsageError as error:
        complaint = str(error)
    except Exception as error:  # another package's code: its fault must not hide the models that work
        complaint = f"cannot be described: {type(error).__name__}: {error}"
    return _Model(name=name, description=None, error=complaint, options=[])


def _option(name: str, declared: AnyOption) -> _Option:
    return _Option(name=name, default=declared.default, help=declared.help, expected=declared.expected)


def _lines(model: _Model) -> list[str]:
    if model["error"] is not None:
        return [f"{model['name']}: {model['error']}"]
    lines = [f"{model['name']}: {model['description']}", f"  {'addr=BDF':<24} {_ADDRESS}"]
    for option in model["options"]:
        shown = f"{option['name']}={_shown(option['default'])}"
        lines.append(f"  {shown:<24} {option['help']} [{option['expected']}]")
    return lines


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].rstrip(".")


def _shown(value: object) -> str:
    return f"{value:#x}" if type(value) is int and value > 0xFFF else str(value)
