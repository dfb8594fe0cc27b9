"""``ioas run``: a program on a software machine; and ``ioas run --check``."""

from __future__ import annotations

import os
from typing import Literal

import click


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="MODEL[,addr=BDF][,OPTION=VALUE]...",
    help="A device of the machine; repeatable. Without --device and --machine there is one edu. See `ioas devices`.",
)
@click.option("--machine", metavar="FILE", help="A machine description in TOML.")
@click.option(
    "--cap", "capabilities", multiple=True, metavar="NAME", help="Grant a capability on this machine; repeatable."
)
@click.option("--no-iommu", is_flag=True, help="A machine without an IOMMU, in VFIO's unsafe mode (docs/noiommu.md).")
@click.option("--iommufd-test", is_flag=True, help="Offer the mock devices of the kernel's selftests.")
@click.option("--explain", is_flag=True, help="Say why each refused call was refused, and each stopped DMA.")
@click.option("--refusals", metavar="FILE", help="Write each refused call to FILE, a line of JSON each.")
@click.option("--summary", is_flag=True, help="Say at the end what was called.")
@click.option("--strict", is_flag=True, help="Refuse memory for DMA that would not stay pinned (see docs/run.md).")
@click.option("--with-real", is_flag=True, help="Show the real machine's PCI devices beside the software machine's.")
@click.option("--no-namespace", is_flag=True, help="Answer for /dev and /sys path by path (see docs/run.md).")
@click.option(
    "--mmio",
    type=click.Choice(["trap", "poll", "rw"]),
    default="trap",
    show_default=True,
    help="How programs reach BARs: each load and store trapped, or pages polled, or by read and write (docs/mmio.md).",
)
@click.option("--uninterrupted", is_flag=True, help="Have no signal interrupt a call, by tracing (docs/run.md).")
@click.option("--check", is_flag=True, help="Say what this environment allows and what is degraded; run nothing.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="PROGRAM [ARGUMENT]...")
def run(
    devices: tuple[str, ...],
    machine: str | None,
    capabilities: tuple[str, ...],
    no_iommu: bool,
    iommufd_test: bool,
    explain: bool,
    refusals: str | None,
    summary: bool,
    strict: bool,
    with_real: bool,
    no_namespace: bool,
    mmio: Literal["trap", "poll", "rw"],
    uninterrupted: bool,
    check: bool,
    program: tuple[str, ...],
) -> int:
    """Run PROGRAM on a software machine with an IOMMU.

    The program finds /dev/iommu, /dev/vfio and the machine's part of /sys; nothing is preloaded or changed in it. Its
    input, output, signals and exit status are its own. The command ends when nothing that it started is left.
    """
    if check:
        return _check()
    if with_real and no_namespace:
        raise click.UsageError("--with-real needs the namespace", click.get_current_context())
    if not program:
        raise click.UsageError("no program to run", click.get_current_context())
    environment = dict(os.environ)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # ours alone: NumPy would start threads that nobody needs
    from ioas.run import Options, Supervisor, end_like, find_program, reserve_standard_descriptors, take_signals

    find_program(program[0])
    reserve_standard_descriptors()
    mask = take_signals()  # before the machine starts threads of its own
    from ioas.soft.host import SoftHost

    host = SoftHost(
        list(devices) or None,
        machine=machine,
        capabilities=capabilities,
        iommufd_test=iommufd_test,
        strict=strict,
        no_iommu=no_iommu,
    )
    options = Options(
        explain=explain,
        refusals=refusals,
        summary=summary,
        namespace=not no_namespace,
        with_real=with_real,
        mmio=mmio,
        uninterrupted=uninterrupted,
    )
    status = Supervisor(host, program, options, mask).run(environment)
    return end_like(status)


def _check() -> int:
    """Print what works here; the exit status."""
    from ioas.run.check import check_environment

    findings = check_environment()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.verdict:<9} {finding.name:<{width}}  {finding.text}")
    return int(any(finding.verdict == "missing" for finding in findings))
