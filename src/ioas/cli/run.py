"""`ioas run`: an unmodified program on a software machine; see `ioas.run` for how."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

import click


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="MODEL[,addr=BDF][,OPTION=VALUE]",
    help="Put a device into the machine; repeatable (default: one edu). `ioas devices` lists the models.",
)
@click.option("--machine", metavar="FILE", type=click.Path(), help="Describe the whole machine in a TOML file.")
@click.option("--iommufd-test", is_flag=True, help="Turn on the mock-device operations of the kernel's selftests.")
@click.option(
    "--cap",
    "capabilities",
    multiple=True,
    metavar="NAME",
    help="Grant a capability on the software machine, such as sys_rawio; repeatable.",
)
@click.option("--explain", is_flag=True, help="Say why each refused call was refused, and what was in the way.")
@click.option("--summary", is_flag=True, help="At the end, count the calls, refusals, mappings and DMA.")
@click.option("--strict", is_flag=True, help="Refuse memory that could not be kept pinned through munmap and fork.")
@click.option("--check", is_flag=True, help="Say what this environment allows and what is degraded, and exit.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
def run(
    devices: tuple[str, ...],
    machine: str | None,
    iommufd_test: bool,
    capabilities: tuple[str, ...],
    explain: bool,
    summary: bool,
    strict: bool,
    check: bool,
    program: tuple[str, ...],
) -> None:
    """Run PROGRAM on a software machine with an IOMMU and devices; its exit status is the program's.

    The program needs no change, no root and no hardware: it opens /dev/iommu and /dev/vfio/devices/vfio0 and finds
    its device under /sys/bus/pci/devices. This is a laboratory, not a sandbox.
    """
    if check:
        _check()
    if not program:
        raise click.UsageError("no program to run; for example: ioas run --device edu -- ./my-driver 0000:01:00.0")
    from ioas.run import Options, Supervisor, find_program
    from ioas.soft.host import SoftHost

    find_program(program[0], os.environ)  # a missing program is told before a machine is built
    host = SoftHost(
        devices or None, machine=machine, capabilities=capabilities, iommufd_test=iommufd_test, strict=strict
    )
    status = Supervisor(host, program, Options(explain=explain, summary=summary)).run()
    _leave(status)


def _leave(status: int) -> NoReturn:
    """Exit as the program did: with its status, or by the signal that killed it."""
    if status < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core to keep is the program's
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(os.getpid(), -status)
    raise SystemExit(status if status >= 0 else 128 - status)


def _check() -> NoReturn:
    from rich.console import Console
    from rich.table import Table

    from ioas.run import check_environment

    findings = check_environment()
    table = Table("what", "here", "so", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.name, finding.state, finding.consequence)
    Console(highlight=False).print(table)
    raise SystemExit(1 if any(finding.fatal for finding in findings) else 0)
