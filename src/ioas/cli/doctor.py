"""``ioas doctor``: may this device be passed through? If not: why, what is to blame, what to do."""

from __future__ import annotations

import json

import click

from ioas.cli.complete import complete_bdf
from ioas.errors import UsageError

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


@click.command()
@click.argument("bdf", metavar="BDF", required=False, shell_complete=complete_bdf)
@click.option("--for", "purpose", type=click.Choice(["vm", "driver", "noiommu"]), default="vm", show_default=True,
              help="A virtual machine, a driver in user space, or one without an IOMMU.")  # fmt: skip
@click.option("--memory", metavar="SIZE", help="How much memory is to be pinned, such as 8G.")
@click.option("--hugepages", metavar="SIZE", help="How much of it is to consist of huge pages.")
@click.option("--iova", metavar="START-LAST", help="IOVA that the program maps at fixed addresses.")
@click.option("--machine", metavar="FILE", help="A capture, or a software machine in TOML, instead of this machine.")
@click.option("--capture", "to", metavar="FILE", help="Write down what the doctor asks, for --machine elsewhere.")
@click.option("--whole", is_flag=True, help="With --capture: leave serial numbers and addresses in.")
@click.option("--json", "as_data", is_flag=True, help="Print the schema ioas.doctor, version 1 (docs/doctor.md).")
def doctor(
    bdf: str | None,
    purpose: str,
    memory: str | None,
    hugepages: str | None,
    iova: str | None,
    machine: str | None,
    to: str | None,
    whole: bool,
    as_data: bool,
) -> int:
    """Say whether PCI function BDF can be used from user space, and what is in the way. Exit status 1: it cannot."""
    from ioas.inspect import Case, Wanted, capture, check_bdf, diagnose, looked_at

    wanted = Wanted(_size(memory, "--memory"), _size(hugepages, "--hugepages"), _range(iova))
    if bdf is None and to is None:
        raise click.UsageError("BDF is missing", click.get_current_context())
    with looked_at(machine) as found:
        if to is not None:
            _write(to, capture(found, whole=whole))
        if bdf is None:
            return 0
        case = Case(found, check_bdf(found, bdf), purpose, wanted)  # type: ignore[arg-type]  # click has checked it
        diagnosis = diagnose(case)
    if as_data:
        click.echo(json.dumps(diagnosis.as_json(), indent=2))
    else:
        from ioas.inspect.screens import diagnosis_lines, show

        show(diagnosis_lines(case, diagnosis), found)
    return int(diagnosis.answer == "no")


def _write(path: str, data: dict[str, object]) -> None:
    """Write a capture. Raises UsageError."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
    except OSError as error:
        raise UsageError(f"--capture: {path}: {error.strerror}") from error


def _size(text: str | None, option: str) -> int | None:
    """Bytes, from "8G" or "4096". Raises UsageError."""
    if text is None:
        return None
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in _UNITS:
        raise UsageError(f"{option}: {text!r} is no size such as 512M or 8G")
    return int(number) << _UNITS[unit]


def _range(text: str | None) -> tuple[int, int] | None:
    """IOVA from and to, from "0xfee00000-0xfeefffff". Raises UsageError."""
    if text is None:
        return None
    try:
        start, last = (int(word, 0) for word in text.split("-"))
    except ValueError:
        start, last = 1, 0
    if not 0 <= start <= last:
        raise UsageError(f"--iova: {text!r} is no range such as 0x100000-0x1fffff")
    return start, last
