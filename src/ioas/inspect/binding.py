"""Give PCI functions to vfio-pci and back: the only part of ioas that changes a real machine, and only when asked.

A change is planned first, as writes to files of /sys, so that it can be shown without being done (`--dry-run`). What
was before is recorded in a file until it is undone. `driver_override` decides which driver a function gets, as
Documentation/ABI/testing/sysfs-bus-pci (7.3) says, so that no other function with the same IDs is affected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from ioas.errors import EnvironmentRefusal, UsageError
from ioas.inspect.case import Case, Wanted
from ioas.inspect.checks_access import holders
from ioas.inspect.checks_device import vfio_pci
from ioas.inspect.machine import Machine
from ioas.inspect.needs import needed_for
from ioas.sysfs import PciDevice

VFIO = "vfio-pci"
RECORD = Path("/run/ioas/bound.json")
_PCI = "/sys/bus/pci"


class Step(NamedTuple):
    """A write to a file."""

    path: str
    text: str

    def __str__(self) -> str:
        """The same as a shell command."""
        return f"echo {self.text} > {self.path}" if self.text else f"echo > {self.path}"


@dataclass(frozen=True, slots=True)
class Change:
    """A function that gets another driver: what it has (None: none), what it is to get, and the steps."""

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
    return [_change(device, VFIO) for device in devices]


def plan_unbind(machine: Machine, bdf: str, *, group: bool = False) -> list[Change]:
    """Give a function, or its whole group, back to the driver that the kernel chooses. Raises UsageError: in use."""
    devices = [device for device in _members(machine, bdf, group) if "vfio" in (device.driver or "")]
    for device in devices:
        _check_free(machine, device, force=True)
    return [_change(device, None) for device in devices]


def plan_undo(machine: Machine, record: Path, bdf: str | None = None) -> list[Change]:
    """Give back what `carry_out` recorded, or one function of it. Raises UsageError when nothing is, and in use."""
    recorded = {name: was for name, was in _read(record).items() if bdf in (None, name)}
    if not recorded:
        raise UsageError(f"{record} says of no binding{f' of {bdf}' if bdf is not None else ''} that could be undone")
    changes = []
    for name, was in recorded.items():
        device = PciDevice(machine.sysfs, name)
        _check_free(machine, device, force=True)
        changes.append(_change(device, was["driver"], was["override"]))
    return changes


def carry_out(machine: Machine, changes: Sequence[Change], record: Path, write: Callable[[Step], None]) -> None:
    """Make the changes, in order; what fails is undone with all before it.

    Raises EnvironmentRefusal: a file cannot be written, or another driver took the function.
    """
    done: list[Change] = []
    try:
        for change in changes:
            done.append(change)
            for step in change.steps:
                write(step)
            _check_driver(machine, change)
    except (OSError, EnvironmentRefusal) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        state = "nothing was changed" if _roll_back(machine, done, write) else "not everything could be put back"
        raise EnvironmentRefusal(f"{text}; {state}") from error
    _note(record, changes)


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


def _change(device: PciDevice, driver: str | None, override: str | None = None) -> Change:
    """From the driver that a function has to `driver`, or to the kernel's choice."""
    path = f"{_PCI}/devices/{device.bdf}"
    has = device.driver
    steps = [Step(f"{path}/driver_override", VFIO if driver == VFIO else override or "")]
    if has is None or has != driver:
        steps += [Step(f"{path}/driver/unbind", device.bdf)] if has is not None else []
        steps.append(Step(f"{_PCI}/drivers_probe", device.bdf))
    return Change(device.bdf, has, device.driver_override, driver, tuple(steps))


def _check_driver(machine: Machine, change: Change) -> None:
    found = PciDevice(machine.sysfs, change.bdf).driver
    if change.after is not None and found != change.after:
        raise EnvironmentRefusal(f"{change.bdf} has got {found or 'no driver'} instead of {change.after}")


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
    return not failures


def _note(record: Path, changes: Sequence[Change]) -> None:
    """Remember what was before a binding, and forget what has been given back."""
    recorded = dict(_read(record))
    for change in changes:
        if change.after == VFIO:
            recorded.setdefault(change.bdf, {"driver": change.before, "override": change.override})
        else:
            recorded.pop(change.bdf, None)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(recorded))


def _read(record: Path) -> Mapping[str, Mapping[str, str | None]]:
    try:
        found: dict[str, dict[str, str | None]] = json.loads(record.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageError(f"{record} cannot be understood ({error}); remove it") from error
    return found


def as_json(changes: Sequence[Change]) -> dict[str, object]:
    """The changes of JSON's types: the schema "ioas.bind", version 1."""
    return {"schema": "ioas.bind", "version": 1, "changes": [asdict(change) for change in changes]}
