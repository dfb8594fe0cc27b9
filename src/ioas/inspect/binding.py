"""Give PCI functions to vfio-pci and back: the only part of ioas that changes a real machine, and only when asked.

A change is planned first, as writes to files of /sys, so that it can be shown without being done (`--dry-run`). What
was before is recorded in a file, first of all and until it is undone. `driver_override` decides which driver a function
gets, as Documentation/ABI/testing/sysfs-bus-pci (7.3) says, so that no other function with the same IDs is affected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from ioas.errors import EnvironmentRefusal, UsageError
from ioas.inspect import record as records
from ioas.inspect.case import Case, Wanted
from ioas.inspect.checks_access import holders
from ioas.inspect.checks_device import vfio_pci
from ioas.inspect.machine import Machine
from ioas.inspect.needs import needed_for
from ioas.sysfs import PciDevice

VFIO = "vfio-pci"
RECORD = Path("/run/ioas/bound.json")
_PCI = "/sys/bus/pci"
_PROBE = f"{_PCI}/drivers_probe"


class Step(NamedTuple):
    """A write to a file."""

    path: str
    text: str

    def __str__(self) -> str:
        """The same as a shell command."""
        return f"echo {self.text} > {self.path}" if self.text else f"echo > {self.path}"


@dataclass(frozen=True, slots=True)
class Change:
    """A function that gets another driver: what it has (None: none), what it is to get, and the steps.

    `after` is None for no driver and, when the steps end with a probe, for whichever the kernel chooses.
    """

    bdf: str
    before: str | None
    override: str | None
    after: str | None
    steps: tuple[Step, ...]


def plan_bind(machine: Machine, bdf: str, *, group: bool = False, force: bool = False) -> list[Change]:
    """Give a function, or its whole group, to vfio-pci; nothing for those that VFIO has.

    Bridges stay as they are. Raises UsageError: a bridge, needed by this machine (unless forced), in use; and
    EnvironmentRefusal when there is no vfio-pci.
    """
    found = vfio_pci(Case(machine, bdf, "driver", Wanted()))
    if found is not None and found.verdict == "no":
        raise EnvironmentRefusal(f"{found.text}: {found.remedy}")
    devices = [device for device in _members(machine, bdf, group) if "vfio" not in (device.driver or "")]
    for device in devices:
        _check_free(machine, device, force)
    return [_change(device, VFIO, VFIO) for device in devices]


def plan_unbind(machine: Machine, bdf: str, *, group: bool = False) -> list[Change]:
    """Give a function, or its whole group, back to the driver that the kernel chooses. Raises UsageError: in use."""
    devices = [device for device in _members(machine, bdf, group) if "vfio" in (device.driver or "")]
    for device in devices:
        _check_free(machine, device, force=True)
    return [_change(device, None, None, choose=True) for device in devices]


def plan_undo(machine: Machine, record: Path, bdf: str | None = None) -> list[Change]:
    """Give back what `carry_out` recorded, or one function of it. Raises UsageError when nothing is, and in use."""
    recorded = {name: was for name, was in records.read(record).items() if bdf in (None, name)}
    if not recorded:
        raise UsageError(f"{record} says of no binding{f' of {bdf}' if bdf is not None else ''} that could be undone")
    changes = []
    for name, was in recorded.items():
        device = PciDevice(machine.sysfs, name)
        _check_free(machine, device, force=True)
        changes.append(_change(device, was["driver"], was["override"]))
    return changes


def carry_out(machine: Machine, changes: Sequence[Change], record: Path, write: Callable[[Step], None]) -> None:
    """Make the changes, in order; what fails or is interrupted is undone with all before it.

    The record says what was before from before the first step on; when not everything can be put back it stays so.
    Raises EnvironmentRefusal: a file cannot be written, or another driver took the function; and UsageError: the record
    cannot be understood. Nothing was changed then, or the message says so.
    """
    recorded = records.read(record)
    was = {one.bdf: records.Was(driver=one.before, override=one.override) for one in changes if one.after == VFIO}
    given_back = {one.bdf for one in changes if one.after != VFIO}
    done: list[Change] = []
    try:
        if was:
            records.save(record, {**was, **recorded})
        for change in changes:
            done.append(change)
            for step in change.steps:
                write(step)
            _check_driver(machine, change)
        if given_back & recorded.keys():
            records.save(record, {bdf: entry for bdf, entry in recorded.items() if bdf not in given_back})
    except BaseException as error:  # Ctrl-C as well
        restored = _roll_back(machine, done, write) and _put_back(record, recorded)
        if restored and not isinstance(error, OSError | EnvironmentRefusal):
            raise
        raise EnvironmentRefusal(f"{_reason(error)}; {_STATES[restored]}") from error


_STATES = {True: "nothing was changed", False: "not everything could be put back"}


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return str(error) or "it was interrupted"


def write_step(step: Step) -> None:
    """Write to a file of this machine. Raises OSError."""
    fd = os.open(step.path, os.O_WRONLY)
    try:
        os.write(fd, f"{step.text}\n".encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, step.path) from error
    finally:
        os.close(fd)


def _members(machine: Machine, bdf: str, group: bool) -> Sequence[PciDevice]:
    case = Case(machine, bdf, "driver", Wanted())
    if case.function.is_bridge:
        raise UsageError(f"{bdf} is a bridge, and vfio-pci takes only what stands behind bridges")
    if not group:
        return [case.device]
    others = [one for one in case.siblings if not Case(machine, one.bdf, "driver", Wanted()).function.is_bridge]
    return [case.device, *others]


def _check_free(machine: Machine, device: PciDevice, force: bool) -> None:
    if (needs := needed_for(machine, device.bdf)) and not force:
        raise UsageError(f"{device.bdf} is needed: {' and '.join(needs)}; --force takes it all the same")
    used = holders(Case(machine, device.bdf, "driver", Wanted()))
    if used is not None and used.verdict == "no":  # the kernel would let us wait until that program ends
        raise UsageError(f"{device.bdf}: {used.text}; {used.remedy}")


def _change(device: PciDevice, driver: str | None, override: str | None, *, choose: bool = False) -> Change:
    """From the driver that a function has to `driver`, or to the kernel's choice, with `override` in the end."""
    path = f"{_PCI}/devices/{device.bdf}"
    has = device.driver
    first = VFIO if driver == VFIO else override  # vfio-pci matches nothing by itself
    steps = [Step(f"{path}/driver_override", first or "")]
    if choose or has != driver:
        steps += [Step(f"{path}/driver/unbind", device.bdf)] if has is not None else []
        steps += [Step(_PROBE, device.bdf)] if choose or driver is not None else []
    if first != override:
        steps.append(Step(f"{path}/driver_override", override or ""))
    return Change(device.bdf, has, device.driver_override, driver, tuple(steps))


def _check_driver(machine: Machine, change: Change) -> None:
    """Raises EnvironmentRefusal: it has not got its driver; what the kernel is to choose is not known before."""
    found = PciDevice(machine.sysfs, change.bdf).driver
    chosen = change.after is None and change.steps[-1].path == _PROBE
    if not chosen and found != change.after:
        raise EnvironmentRefusal(
            f"{change.bdf} has got {found or 'no driver'} instead of {change.after or 'no driver'}"
        )


def _roll_back(machine: Machine, done: Sequence[Change], write: Callable[[Step], None]) -> bool:
    """Put everything back, as far as it goes; whether all of it went."""
    failures = 0
    for change in reversed(done):
        back = _change(PciDevice(machine.sysfs, change.bdf), change.before, change.override)
        for step in back.steps:
            try:
                write(step)
            except OSError:  # the first failure is what is reported
                failures += 1
        failures += PciDevice(machine.sysfs, change.bdf).driver != change.before
    return not failures


def _put_back(record: Path, recorded: Mapping[str, records.Was]) -> bool:
    """Let the record say again what it said; whether that went."""
    try:
        if records.read(record) != recorded:
            records.save(record, recorded)
    except (OSError, UsageError, EnvironmentRefusal):
        return False
    return True


def as_json(changes: Sequence[Change]) -> dict[str, object]:
    """The changes of JSON's types: the schema "ioas.bind", version 1."""
    return {"schema": "ioas.bind", "version": 1, "changes": [asdict(change) for change in changes]}
