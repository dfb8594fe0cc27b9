"""`ioas devices`: the models that `--device` knows."""

from __future__ import annotations

import click


@click.command()
def devices() -> None:
    """List the device models that --device knows, and their options."""
    from ioas.soft.host.models import load_model, model_names

    for name in model_names():
        model = load_model(name)
        click.echo(f"{name}: {(model.__doc__ or '').strip().splitlines()[0]}")
        for option, declared in model.options().items():
            click.echo(f"  {option}={declared.default}  {declared.help}")
