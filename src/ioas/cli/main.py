"""The `ioas` command: the group that the commands hang on, and the one place where errors become one line.

Exit status 2 is for a wrong command line or machine description, 1 for what the environment refuses and
for bugs. No traceback reaches the user unless IOAS_DEBUG is set.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from ioas import __version__
from ioas.errors import IoasError, UsageError

_COMMANDS = {
    "devices": ("ioas.cli.devices", "The device models that --device knows, and their options."),
    "run": ("ioas.cli.run", "Run a program on a software machine with an IOMMU and devices."),
}
"""Command, the module that has it under the same name, and its line in the help: modules load when they are used."""


class _Lazy(click.Group):
    """A group that imports a command only when it is called, so that `ioas --help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), cmd_name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in sorted(_COMMANDS.items())])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ioas")
def _ioas() -> None:
    """Give every program an IOMMU: Linux's iommufd and VFIO, in software.

    `ioas run -- PROGRAM` runs an unmodified program on a software machine.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line (`arguments`, by default those of the process) and exit with its status."""
    try:
        status = _ioas.main(arguments, prog_name="ioas", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"ioas: {error.format_message()}{_hint(error)}", err=True)
        status = error.exit_code
    except click.Abort:
        status = 130
    except BrokenPipeError:
        status = 141
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes standard output once more at exit
    except Exception as error:  # the last line of defence: a user sees one line, whatever happened
        if os.environ.get("IOAS_DEBUG"):
            raise
        status = _complain(error)
    sys.exit(status)


def _hint(error: click.ClickException) -> str:
    """Where to read on, for a wrong command line."""
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
    return f" (see {path} --help)" if path else ""


def _complain(error: Exception) -> int:
    """Say in one line what went wrong; return the exit status."""
    if isinstance(error, (IoasError, OSError)):
        click.echo(f"ioas: {error}", err=True)
        return int(getattr(error, "status", 2)) if isinstance(error, UsageError) else 1
    where = f"{type(error).__name__}: {error}".splitlines()[0]
    click.echo(f"ioas: a bug in ioas ({where}); please report what IOAS_DEBUG=1 prints", err=True)
    return 1
