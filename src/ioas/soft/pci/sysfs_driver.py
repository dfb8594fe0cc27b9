"""The vfio-pci driver in sysfs: bind, unbind, new_id, driver_override (drivers/base/bus.c, pci-driver.c; 7.3).

What is written there takes functions from vfio-pci and gives them to it; the machine's other drivers are
`sysfs_host_drivers`'. `ioas.soft.host` says what becomes of the VFIO device.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from ioas.soft.pci.function import Function
from ioas.soft.pci.nodes import Text, Tree
from ioas.soft.pci.sysfs_function import path_of, show_uevent
from ioas.soft.pci.sysfs_host_drivers import HostDrivers

NAME = "vfio-pci"
_DRIVER = f"/sys/bus/pci/drivers/{NAME}"
_ANY = 0xFFFFFFFF
_LONGEST = 4094


class InUse(BlockingIOError):  # noqa: N818 - a state, not an error
    """The driver is to let go of a device that programs have open: the kernel makes the writer wait.

    `ended` tells whether that is over; it completes the unbinding when it is.
    """

    def __init__(self, ended: Callable[[], bool]) -> None:
        super().__init__(errno.EAGAIN, "the device is in use, and its driver waits until it is closed")
        self.ended = ended


class PciId(NamedTuple):
    """What a driver takes: ids, or any; a class under a mask."""

    vendor: int
    device: int
    subvendor: int = _ANY
    subdevice: int = _ANY
    class_code: int = 0
    class_mask: int = 0

    def matches(self, function: Function) -> bool:
        """Whether a function is of this kind (pci_match_one_device)."""
        has = (function.vendor_id, function.device_id, function.subsystem_vendor_id, function.subsystem_id)
        same = all(wanted in (_ANY, there) for wanted, there in zip(self[:4], has, strict=True))
        return same and not (self.class_code ^ function.class_code) & self.class_mask


class VfioPci:
    """The driver: which functions it has, and which it would take."""

    def __init__(
        self,
        tree: Tree,
        functions: Mapping[str, Function],
        bound: set[str],
        probe: Callable[[str], None],
        remove: Callable[[str], Callable[[], bool]],
        others: HostDrivers,
    ) -> None:
        """Of `functions` (by BDF) those in `bound` are; all were to be (`driver_override`), but those of `others`.

        `probe` makes the VFIO device of one; `remove` begins to take it away and returns what tells whether that is
        over, that is whether nobody has it open any more.
        """
        self._tree = tree
        self._functions = dict(functions)
        self._probe = probe
        self._remove = remove
        self._bound = bound
        self._others = others
        self._overrides: dict[str, str] = dict.fromkeys(functions.keys() - others.elsewhere, NAME)
        others.share(self._overrides.get, bound.__contains__)
        self._going: dict[str, Callable[[], bool]] = {}
        """Of the functions that it is to let go of: what `begin_to_unbind` has returned."""
        self._ids: list[PciId] = []
        stores = {"bind": self._bind, "unbind": self._unbind, "new_id": self._add_id, "remove_id": self._remove_id}
        for name, store in stores.items():
            self._serve(f"{_DRIVER}/{name}", store)
        self._serve("/sys/bus/pci/drivers_probe", self._probe_store)
        for bdf, function in functions.items():
            self._serve_function(bdf, function)

    def _serve_function(self, bdf: str, function: Function) -> None:
        path = path_of(function)
        self._serve(f"{path}/driver_override", lambda data: self._set_override(bdf, data))
        self._text(f"{path}/driver_override").contents = lambda: f"{self._overrides.get(bdf, '(null)')}\n".encode()
        self._text(f"{path}/uevent").contents = lambda: show_uevent(function, self._driver_of(bdf))

    def _driver_of(self, bdf: str) -> str | None:
        return NAME if bdf in self._bound else self._others.driver_of(bdf)

    def _serve(self, path: str, store: Callable[[bytes], None]) -> None:
        self._text(path).write = store

    def _text(self, path: str) -> Text:
        node = self._tree.get(path)
        if not isinstance(node, Text):
            raise TypeError(f"{path} is no text")
        return node

    def _bind(self, data: bytes) -> None:
        """bind_store: ENODEV for what the driver does not take, EBUSY for what has a driver."""
        bdf = _name(data)
        if bdf not in self._functions or not self._takes(bdf):
            raise _error(errno.ENODEV, bdf)
        if self._driver_of(bdf) is not None:
            raise _error(errno.EBUSY, bdf)
        self._attach(bdf)

    def _unbind(self, data: bytes) -> None:
        """unbind_store: ENODEV for what the driver does not have; waits while the device is open (InUse)."""
        bdf = _name(data)
        if bdf not in self._bound:
            raise _error(errno.ENODEV, bdf)
        ended = self.begin_to_unbind(bdf)
        if not ended():
            raise InUse(ended)

    def begin_to_unbind(self, bdf: str) -> Callable[[], bool]:
        """Let go of a function, if the driver has it; what tells whether that is over, and completes it when it is.

        Whoever wants the same meanwhile waits for the same: the kernel lets them in one after the other (device_lock).
        """
        if bdf not in self._bound:
            return lambda: True
        if bdf in self._going:
            return self._going[bdf]
        free = self._remove(bdf)

        def ended() -> bool:
            if self._going.get(bdf) is ended and free():
                del self._going[bdf]
                self._bound.discard(bdf)
                self._tree.remove(f"{_DRIVER}/{bdf}")
                self._tree.remove(f"{path_of(self._functions[bdf])}/driver")
            return self._going.get(bdf) is not ended

        self._going[bdf] = ended
        return ended

    def add(self, bdf: str, function: Function) -> None:
        """A virtual function has appeared, of a PF that the driver has: it gets it too (vfio_pci_bus_notifier).

        By an override, so also where drivers are not to be looked for (pci_device_can_probe).
        """
        self._functions[bdf] = function
        self._overrides[bdf] = NAME
        self._serve_function(bdf, function)
        self._try(bdf)

    def forget(self, bdf: str) -> None:
        """A virtual function that has no driver disappears."""
        del self._functions[bdf]
        self._overrides.pop(bdf, None)

    def _probe_store(self, data: bytes) -> None:
        """drivers_probe_store: ENODEV when there is no such device; no driver's wanting it is no error."""
        bdf = _name(data)
        if bdf not in self._functions:
            raise _error(errno.ENODEV, bdf)
        self._probe_unbound(bdf)
        self._others.probe(bdf)

    def _set_override(self, bdf: str, data: bytes) -> None:
        """__device_set_driver_override: up to the newline; nothing clears it. What is bound stays bound."""
        name = data.partition(b"\n")[0].decode(errors="replace")
        if len(data) > _LONGEST + 1:
            raise _error(errno.EINVAL, f"{len(data)} bytes")
        self._overrides.pop(bdf, None)
        if name:
            self._overrides[bdf] = name

    def _add_id(self, data: bytes) -> None:
        """new_id_store: EINVAL for fewer than two numbers, EEXIST for ids that are known; takes what matches."""
        added = _parse_id(data)
        if added in self._ids:
            raise _error(errno.EEXIST, data.decode(errors="replace").strip())
        self._ids.append(added)
        for bdf in self._functions:
            self._probe_unbound(bdf)

    def _remove_id(self, data: bytes) -> None:
        """remove_id_store: ENODEV for ids that are not known."""
        removed = _parse_id(data)
        if removed not in self._ids:
            raise _error(errno.ENODEV, data.decode(errors="replace").strip())
        self._ids.remove(removed)

    def _probe_unbound(self, bdf: str) -> None:
        if self._driver_of(bdf) is None and self._takes(bdf):
            self._try(bdf)

    def _try(self, bdf: str) -> None:
        """Let the driver have a function, which stays without one where it is refused: only bind says so."""
        with suppress(OSError):
            self._attach(bdf)

    def _takes(self, bdf: str) -> bool:
        """pci_match_device: an override decides alone; without one, ids that were added."""
        override = self._overrides.get(bdf)
        if override is not None:
            return override == NAME
        return any(known.matches(self._functions[bdf]) for known in self._ids)

    def _attach(self, bdf: str) -> None:
        self._probe(bdf)
        self._bound.add(bdf)
        self._tree.link(f"{_DRIVER}/{bdf}", path_of(self._functions[bdf]))
        self._tree.link(f"{path_of(self._functions[bdf])}/driver", _DRIVER)


def _name(data: bytes) -> str:
    """A device's name as it is written (sysfs_streq: one newline at the end does not count)."""
    return data.decode(errors="replace").removesuffix("\n")


def _parse_id(data: bytes) -> PciId:
    numbers = []
    for word in data.split()[:6]:
        try:
            numbers.append(int(word, 16))
        except ValueError:
            break
    if len(numbers) < 2:
        raise _error(errno.EINVAL, data.decode(errors="replace").strip())
    return PciId(*numbers)


def _error(number: int, what: str) -> OSError:
    return OSError(number, os.strerror(number), what)
