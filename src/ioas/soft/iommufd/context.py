"""`Context`: an open /dev/iommu (follows drivers/iommu/iommufd/main.c, 7.3)."""

from __future__ import annotations

import select
from errno import EINVAL, ENOTTY, EPERM
from mmap import MAP_SHARED, PROT_EXEC
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import Caller, Capability
from ioas.soft.iommufd import compat
from ioas.soft.iommufd.commands import BASE, COMMANDS, LAST
from ioas.soft.iommufd.dispatch import argument_of
from ioas.soft.iommufd.mock_commands import LAST as LAST_WITH_TEST, TEST_COMMANDS
from ioas.soft.iommufd.objects import ObjectTable
from ioas.soft.iommufd.pages import Owner
from ioas.soft.iommufd.window import Windows
from ioas.soft.memory import AccountMode

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import System
    from ioas.soft.iommufd.group import DeviceGroup
    from ioas.soft.iommufd.ioas import Ioas

_ALWAYS_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
_MAP_KIND = 0x0F
_MAP_SHARED_VALIDATE = 0x03


class Context:
    """An open /dev/iommu (implements `ioas.host.File`).

    It lives as long as its file is open or something holds it (`get`): a bound device or an access keeps it
    alive after the program closes its descriptor. The last `put` destroys every object, leaves first.
    """

    def __init__(
        self, system: System, *, test: bool = False, number: tuple[int, int] = (10, 125), vfio: bool = False
    ) -> None:
        """`test` turns on IOMMU_TEST_CMD; `number` is the node's (major, minor).

        `vfio` is for a context opened as /dev/vfio/vfio (locked memory is then counted as VFIO counts it).
        """
        self.system = system
        self.lock = system.lock
        system.failures.point("context")
        self.objects = ObjectTable(system.failures)
        self.groups: dict[int, DeviceGroup] = {}
        """By the id of the IOMMU group: those of which a device is bound here."""
        self.windows = Windows()
        """What can be mapped through the file."""
        self.vfio_ioas: Ioas | None = None
        """The IOAS that stands for the container (IOMMU_VFIO_IOAS)."""
        self.no_iommu = False
        """A group without an IOMMU has come into it as into a container: no other comes in any more."""
        self.account_mode = AccountMode.MM if vfio else AccountMode.USER
        self._commands = TEST_COMMANDS if test else COMMANDS
        self._last = LAST_WITH_TEST if test else LAST
        self._number = number
        self._references = 1
        self._open = True
        self._owner: Owner | None = None

    def get(self) -> None:
        """Take a reference that keeps the context after its file is closed."""
        with self.lock:
            self._references += 1

    def put(self) -> None:
        """Give a reference back; the last one destroys everything, synchronously."""
        with self.lock:
            self._references -= 1
            if not self._references:
                self.objects.destroy_all()

    def owner_for(self, caller: Caller) -> Owner:
        """On whose account `caller` pins memory that it maps (iopt_alloc_pages, iopt_map_common)."""
        mode = AccountMode.NONE if caller.capable(Capability.IPC_LOCK) else self.account_mode
        owner = self._owner
        memory, uid = caller.memory, caller.uid
        if owner is None or owner.memory is not memory or owner.mode is not mode or owner.uid != uid:
            owner = self._owner = Owner(memory, uid, mode)
        return owner

    # -- ioas.host.File

    @property
    def device_number(self) -> tuple[int, int]:
        """The node's major and minor."""
        return self._number

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """Carry out one of iommufd's commands, or a VFIO container command."""
        command = self._commands.get(request)
        if command is None:
            return self._other(caller, request & 0xFFFFFFFF, argument)
        return command.carry_out(self, caller, argument)

    def _other(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """A request that is not in the table: VFIO's, or nobody's (iommufd_fops_ioctl)."""
        if not BASE <= request & 0xFF <= self._last:
            with self.lock:
                self.system.failures.act_for(caller.pid)
                return compat.ioctl(self, caller, request, argument)
        argument_of(caller, argument).read(0, 4)  # the kernel reads `size` before it knows the request
        raise refuse(ENOTTY, f"{request:#x} is not an iommufd request", "request", f"{request:#x}")

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """EINVAL: nothing can be read."""
        raise refuse(EINVAL, "an iommufd file cannot be read", "file", "/dev/iommu")

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """EINVAL: nothing can be written."""
        raise refuse(EINVAL, "an iommufd file cannot be written", "file", "/dev/iommu")

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """Follows iommufd_fops_mmap: what a vIOMMU offers is mapped whole."""
        if not length or flags & _MAP_KIND not in (MAP_SHARED, _MAP_SHARED_VALIDATE):
            raise refuse(EINVAL, "an iommufd file is mapped MAP_SHARED, and some of it", "field", "flags")
        if protection & PROT_EXEC:
            raise refuse(EPERM, "an iommufd file cannot be mapped for execution", "field", "prot")
        with self.lock:
            return self.windows.find(offset, length).fd

    def poll(self, caller: Caller) -> int:
        """Always ready: the file has no poll operation of its own."""
        return _ALWAYS_READY

    def close(self) -> None:
        """The program's last descriptor is gone. Idempotent."""
        with self.lock:
            if self._open:
                self._open = False
                self.put()
