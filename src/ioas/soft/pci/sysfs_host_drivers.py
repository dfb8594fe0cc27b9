"""Drivers of the machine's own in sysfs: they have functions, and the DMA of their groups, and do nothing else.

What a sibling's driver means for those who want a group for user space (iommu_device_use_default_domain, 7.3): the
group's DMA is the kernel's as long as one of its functions has a driver other than vfio-pci, and such a driver does not
get a function of a group that user space has.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ioas.errors import KernelError
from ioas.soft.pci.nodes import Text, Tree
from ioas.soft.pci.sysfs_function import path_of

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

NO_DRIVER = "none"
_DRIVERS = "/sys/bus/pci/drivers"


class HostDrivers:
    """All of them. Each takes the functions that it has when the machine starts, and others by `driver_override`."""

    def __init__(self, tree: Tree, functions: Mapping[str, Function], drivers: Mapping[str, str]) -> None:
        """`drivers`: by BDF, the driver that has a function of `functions`; those of nobody here are left out."""
        self._tree = tree
        self._functions = functions
        self.elsewhere = frozenset(drivers)
        """The functions that vfio-pci does not want at first, those that nobody has among them."""
        self._wanted = {bdf: name for bdf, name in drivers.items() if name != NO_DRIVER}
        self._bound: dict[str, str] = {}
        self._override: Callable[[str], str | None] = lambda bdf: None
        self._taken: Callable[[str], bool] = lambda bdf: False
        for name in sorted(set(self._wanted.values())):
            self._show(name)
        for bdf, name in self._wanted.items():
            self._attach(bdf, name)

    def share(self, override: Callable[[str], str | None], taken: Callable[[str], bool]) -> None:
        """Share the bus with vfio-pci: `override` tells what driver_override says, `taken` what vfio-pci has."""
        self._override = override
        self._taken = taken

    def driver_of(self, bdf: str) -> str | None:
        """The driver that has a function; None: none of these."""
        return self._bound.get(bdf)

    def probe(self, bdf: str) -> None:
        """Offer a function without driver to them (drivers_probe_store): EINVAL when one wants it in vain."""
        name = self._override(bdf) or self._wanted.get(bdf)
        if name is None or name not in self._wanted.values() or bdf in self._bound or self._taken(bdf):
            return
        try:
            self._attach(bdf, name)
        except OSError as error:
            raise _error(errno.EINVAL, bdf) from error

    def _show(self, name: str) -> None:
        path, module = f"{_DRIVERS}/{name}", f"/sys/module/{name.replace('-', '_')}"
        stores = {"bind": self._bind, "unbind": self._unbind}
        for file in ("bind", "new_id", "remove_id", "uevent", "unbind"):
            store = stores.get(file)
            serve = (lambda data, store=store: store(name, data)) if store is not None else None
            self._tree.add(f"{path}/{file}", Text(b"", 0o200, serve))
        self._tree.directory(f"{module}/drivers")
        self._tree.link(f"{path}/module", module)
        self._tree.link(f"{module}/drivers/pci:{name}", path)

    def _bind(self, name: str, data: bytes) -> None:
        """bind_store: ENODEV for what the driver does not take, EBUSY for what has a driver or is user space's."""
        bdf = data.decode(errors="replace").removesuffix("\n")
        if bdf not in self._functions or (self._override(bdf) or self._wanted.get(bdf)) != name:
            raise _error(errno.ENODEV, bdf)
        if bdf in self._bound or self._taken(bdf):
            raise _error(errno.EBUSY, bdf)
        self._attach(bdf, name)

    def _unbind(self, name: str, data: bytes) -> None:
        """unbind_store: ENODEV for what the driver does not have."""
        bdf = data.decode(errors="replace").removesuffix("\n")
        if self._bound.get(bdf) != name:
            raise _error(errno.ENODEV, bdf)
        del self._bound[bdf]
        if (group := self._functions[bdf].requester.group) is not None:
            group.stop_using(bdf)
        self._tree.remove(f"{_DRIVERS}/{name}/{bdf}")
        self._tree.remove(f"{path_of(self._functions[bdf])}/driver")

    def _attach(self, bdf: str, name: str) -> None:
        function = self._functions[bdf]
        if (group := function.requester.group) is not None:
            try:
                group.use(bdf, name)
            except KernelError as error:
                raise _error(error.errno or errno.EBUSY, bdf) from error
        self._bound[bdf] = name
        self._tree.link(f"{_DRIVERS}/{name}/{bdf}", path_of(function))
        self._tree.link(f"{path_of(function)}/driver", f"{_DRIVERS}/{name}")


def _error(number: int, what: str) -> OSError:
    return OSError(number, os.strerror(number), what)
