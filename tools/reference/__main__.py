"""``python -m tools.reference``: build the reference guest's kernels, and run a command in the guest."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from ioas.errors import EnvironmentRefusal, UsageError
from tools.reference import kernels, toolbox
from tools.reference.guest import VARIANTS, Guest
from tools.reference.session import GuestError, Limits, Session, TimeLimitError

DIED, LATE, REFUSED = 123, 124, 125
INTERRUPTED, UNREAD = 130, 141


@click.group()
def main() -> None:
    """The real Linux 7.3 in a guest, as a reference."""


@main.command()
@click.option("--again", is_flag=True, help="Build what is in the cache too: for a changed tree of IOAS_LINUX.")
def build(again: bool) -> None:
    """Build the guest's kernels into the cache and print where they are."""
    say = _progress()
    toolbox.qemu(say)
    for name, path in kernels.build(say, again=again).items():
        click.echo(f"{name}\t{path}")


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--variant", type=click.Choice(list(VARIANTS)), default="iommu", show_default=True)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for COMMAND. [default: no limit]")
@click.option("--output", "outputs", multiple=True, type=click.Path(file_okay=False, path_type=Path),
              help="A directory of the host that the guest may write; made when missing. Repeatable.")  # fmt: skip
@click.option("--memory", type=click.IntRange(min=512), default=2048, show_default=True, help="MiB.")
@click.option("--processors", type=click.IntRange(1, 8), default=1, show_default=True)
@click.option("--console", is_flag=True, help="Print what the guest's kernel said, at the end.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    variant: str, timeout: float | None, outputs: tuple[Path, ...], memory: int, processors: int, console: bool,
    command: tuple[str, ...],
) -> int:  # fmt: skip
    """Run COMMAND as root in the guest, here and with this Python's environment; exit with its status.

    All that it writes is gone afterwards, but for what it writes in an --output.
    """
    say = _progress()
    kernel = kernels.get(VARIANTS[variant].kernel, say)
    qemu = toolbox.qemu(say)
    for output in outputs:
        output.mkdir(parents=True, exist_ok=True)
    guest = Guest(variant, kernel, qemu, outputs, memory, processors, environment=_environment())
    session = Session(guest, command, Path.cwd(), sys.stdout.buffer, sys.stderr.buffer)
    status = session.run(Limits(command=timeout))
    if console:
        click.echo(session.console(), err=True)
    return status


def _environment() -> dict[str, str]:
    """The environment of this process, in which "python" is this Python and keeps what it compiles."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}


def _progress() -> Callable[[str], None]:
    began = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        click.echo(f"reference {minutes}:{seconds:02d}  {text}", err=True)

    return say


def entry() -> int:
    """Run the command line; the exit status. Whatever goes wrong is a message on standard error."""
    try:
        return main.main(standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads; nothing more is to be said
        return UNREAD
    except GuestError as error:
        end = error.console.replace("\n", "\n  ") or "(it is empty)"
        click.echo(f"tools.reference: {error}; the end of its console:\n  {end}", err=True)
        return LATE if isinstance(error, TimeLimitError) else DIED
    except (EnvironmentRefusal, UsageError, OSError, subprocess.SubprocessError) as error:
        click.echo(f"tools.reference: {error}", err=True)
        return REFUSED


if __name__ == "__main__":
    sys.exit(entry())
