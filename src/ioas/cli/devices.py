"""``ioas devices``: the models that --device knows, and their options."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ioas.errors import UsageError


@click.command()
def devices() -> None:
    """List the device models for --device, with their options and defaults."""
    from ioas.soft.host.models import model_names

    for name in model_names():
        try:
            lines = list(_describe(name))
        except UsageError as error:
            lines = [f"{name}: {error}"]
        except Exception as error:  # another package's code: its fault must not hide the models that work
            lines = [f"{name}: cannot be described: {type(error).__name__}: {error}"]
        click.echo("\n".join(lines))


def _describe(name: str) -> Iterator[str]:
    from ioas.soft.host.models import load_model

    model = load_model(name)
    yield f"{name}: {_first_line(model.__doc__)}"
    yield f"  {'addr=BDF':<24} where it stands [the next free of 0000:01:00.0, 0000:02:00.0, ...]"
    for option, declared in model.options().items():
        shown = f"{option}={_shown(declared.default)}"
        yield f"  {shown:<24} {declared.help} [{declared.expected}]"


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].rstrip(".")


def _shown(value: object) -> str:
    return f"{value:#x}" if type(value) is int and value > 0xFFF else str(value)
