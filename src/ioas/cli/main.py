"""Entry: find the command, and turn whatever goes wrong into one line and an exit status.

Statuses: 2 for a wrong option or machine description; 126 and 127 as env(1) for a program that cannot be run; 125
when this environment does not allow it, or when ioas itself fails; 130 after Ctrl-C. Commands import what they need
when they run, so that a wrong option is answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from ioas import __version__
from ioas.cli.bind import bind, unbind
from ioas.cli.devices import devices
from ioas.cli.doctor import doctor
from ioas.cli.ls import ls
from ioas.cli.run import run
from ioas.errors import IoasError, UsageError

_WRONG_USAGE = 2
_NOT_POSSIBLE = 125
_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ioas")
def ioas() -> None:
    """Linux's user-space IOMMU interfaces, iommufd and VFIO, on a machine made of software."""


ioas.add_command(run)
ioas.add_command(devices)
ioas.add_command(ls)
ioas.add_command(doctor)
ioas.add_command(bind)
ioas.add_command(unbind)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; ends the process. `arguments` are those of the command line unless given."""
    sys.exit(_status(None if arguments is None else list(arguments)))


def _status(arguments: list[str] | None) -> int:
    try:
        status = ioas.main(arguments, prog_name="ioas", standalone_mode=False)
    except click.ClickException as error:
        return _complain(_usage(error), error.exit_code)
    except click.Abort:
        return _INTERRUPTED
    except UsageError as error:
        return _complain(str(error), getattr(error, "status", _WRONG_USAGE))
    except IoasError as error:
        return _complain(str(error), _NOT_POSSIBLE)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads: do not complain again at exit
        return _NOT_POSSIBLE
    except Exception as error:
        if os.environ.get("IOAS_DEBUG"):
            raise
        advice = "please report it with the command that you ran; IOAS_DEBUG=1 shows where it comes from"
        return _complain(f"internal error: {type(error).__name__}: {error}; {advice}", _NOT_POSSIBLE)
    return status if isinstance(status, int) else 0


def _complain(message: str, status: int) -> int:
    """Write one line to standard error."""
    print(f"ioas: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return status


def _usage(error: click.ClickException) -> str:
    """A usage error in one line, with the command whose --help tells more."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context else message
