"""What a test has left behind: mappings, objects, files, descriptors, pinned memory, stopped DMA, dead devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ioas.testing.failures import model_failures
from ioas.testing.faults import stray_faults

if TYPE_CHECKING:
    from ioas.api import Ioas, Iommufd
    from ioas.api.host import BaseHost

    T = TypeVar("T", bound=BaseHost)

# What a driver opens. Others - pipes, sockets, logs - belong to the test runner as often as to the test.
_KINDS = ("anon_inode:[eventfd]", "anon_inode:[iommufd", "/dev/iommu", "/dev/vfio/", "/memfd:")


class Watch:
    """Hosts that a test uses, and what this process held before it."""

    def __init__(self) -> None:
        self._hosts: list[BaseHost] = []
        self._descriptors = _descriptors()
        self._pinned = _pinned_kilobytes()

    def over(self, host: T) -> T:
        """Watch `host`, too, and close it at the end."""
        self._hosts.append(host)
        return host

    def end(self) -> list[str]:
        """Close the hosts, and tell what was still there: a sentence for each thing, nothing when all is well."""
        complaints = [complaint for host in self._hosts for complaint in _still_used(host)]
        for host in self._hosts:
            host.close()
        for host in self._hosts:
            complaints += [f"{complaint} after everything was closed" for complaint in _held(host)]
        return [*complaints, *self._left_in_process()]

    def _left_in_process(self) -> list[str]:
        """What the kernel shows of this process, and did not before."""
        complaints = [
            f"descriptor {fd} ({name}) is still open"
            for fd, name in _descriptors().items()
            if self._descriptors.get(fd) != name
        ]
        pinned = _pinned_kilobytes() - self._pinned
        return [*complaints, f"{pinned} kB are still pinned (VmPin)"] if pinned > 0 else complaints


def mappings(space: Ioas) -> list[str]:
    """The mappings that are left in an address space, as far as they were made through it."""
    return [f"{mapping!r} is still there" for mapping in space.mappings]


def objects(iommufd: Iommufd) -> list[str]:
    """The objects that are left in an iommufd: all of a software machine's, the address spaces of the kernel's."""
    from ioas.soft.iommufd import Context

    if isinstance(iommufd.file, Context):
        return [f"{entry} is still there" for entry in iommufd.file.objects]
    return [f"{space!r} is still there" for space in iommufd.spaces]


def _still_used(host: BaseHost) -> list[str]:
    """Models that failed, stopped DMA, and open files; without any, what is held all the same."""
    files = [f"{file!r} is still open" for file in host._session.files]
    return [*model_failures(host), *stray_faults(host), *(files or _held(host))]


def _held(host: BaseHost) -> list[str]:
    """What the machine and the caller count."""
    from ioas.api import SoftHost

    held = dict(host._session.caller.held())
    if isinstance(host, SoftHost):
        held |= host.machine.leaks()
    return [f"{count} {kind} still held" for kind, count in held.items()]


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed them
            continue
        if target.startswith(_KINDS):
            found[int(name)] = target
    return found


def _pinned_kilobytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmPin:"):
            return int(line.split()[1])
    return 0
