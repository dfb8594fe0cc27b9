"""`Container`: an open /dev/vfio/vfio where VFIO serves it itself (drivers/vfio/container.c, 7.3).

A container without a group can do nothing but tell what there is. The first group brings the right to choose an IOMMU
driver (VFIO_SET_IOMMU), which then serves all groups; when the last one leaves, the driver and all mappings go.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from errno import EINVAL, ENODEV, EPERM
from typing import TYPE_CHECKING, ClassVar, Protocol

from ioas.errors import KernelError, UsageError, refuse
from ioas.host import Caller
from ioas.soft.vfio.noiommu import check_privilege
from ioas.uapi.vfio import VFIO_API_VERSION, VFIO_CHECK_EXTENSION, VFIO_GET_API_VERSION, VFIO_SET_IOMMU

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import System
    from ioas.soft.vfio.group import VfioGroup

_ALWAYS_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM


class IommuDriver(Protocol):
    """What a container maps with (struct vfio_iommu_driver_ops). `System.lock` is held for every method."""

    serves_noiommu: ClassVar[bool]
    """Whether it is the one for groups without an IOMMU, and for no others."""

    @classmethod
    def knows(cls, extension: int) -> int:
        """VFIO_CHECK_EXTENSION before any is chosen: 0 or positive."""
        ...

    @classmethod
    def open(cls, system: System, caller: Caller, kind: int) -> IommuDriver:
        """VFIO_SET_IOMMU. Raises KernelError."""
        ...

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """A request that is not the container's own. Raises KernelError; ENOTTY."""
        ...

    def extension(self, extension: int) -> int:
        """VFIO_CHECK_EXTENSION once it is chosen."""
        ...

    def attach(self, group: VfioGroup) -> None:
        """Serve a group too. Raises KernelError, with nothing changed."""
        ...

    def detach(self, group: VfioGroup) -> None:
        """Serve a group no more. Cannot fail."""
        ...

    def release(self) -> None:
        """No group is left. Cannot fail."""
        ...


class Container:
    """An open container (implements `ioas.host.File`). It lives on, without its file, while groups are in it."""

    def __init__(
        self, system: System, drivers: Sequence[type[IommuDriver]], number: tuple[int, int] = (10, 196)
    ) -> None:
        """`drivers`: what this kernel has, in the order in which they are asked; `number`: the node's."""
        self.system = system
        self.groups: list[VfioGroup] = []
        """The groups in it, the latest first."""
        self.driver: IommuDriver | None = None
        self._noiommu = False
        self._drivers = drivers
        self._number = number

    @property
    def device_number(self) -> tuple[int, int]:
        """The node's major and minor."""
        return self._number

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """The container's three requests, and its driver's (vfio_fops_unl_ioctl). Raises KernelError."""
        with self.system.lock:
            if request == VFIO_GET_API_VERSION:
                return VFIO_API_VERSION
            if request == VFIO_CHECK_EXTENSION:
                return self._check_extension(_number(request, argument))
            if request == VFIO_SET_IOMMU:
                return self._set_iommu(caller, _number(request, argument))
            if self.driver is None:
                raise refuse(
                    EINVAL, "nothing can be mapped before VFIO_SET_IOMMU has chosen a driver", "object", "container"
                )
            return self.driver.ioctl(caller, request, argument)

    def attach(self, caller: Caller, group: VfioGroup) -> None:
        """Take a group in: its DMA is claimed, and it is served from now on (vfio_container_attach_group).

        Raises KernelError, with nothing changed: EPERM when the DMA belongs to somebody else, for groups with and
        without an IOMMU in one container, or without an IOMMU and CAP_SYS_RAWIO; and what the driver refuses.
        """
        if group.noiommu:
            check_privilege(caller, f"group {group.name}")
        if self.groups and self._noiommu != group.noiommu:
            raise refuse(EPERM, "groups with and without an IOMMU do not mix in a container", "group", group.name)
        if not group.noiommu:
            group.group.claim_whole(group)
        try:
            if self.driver is not None:
                self.driver.attach(group)
        except KernelError:
            group.group.release(group)
            raise
        self._noiommu = group.noiommu
        self.groups.insert(0, group)

    def detach(self, group: VfioGroup) -> None:
        """Let a group go; with the last one the driver goes (vfio_group_detach_container)."""
        driver = self.driver
        if driver is not None:
            driver.detach(group)
        group.group.release(group)
        self.groups.remove(group)
        if driver is not None and not self.groups:
            self.driver = None
            driver.release()

    def check_use(self, caller: Caller) -> None:
        """Whether a device of its groups may be opened (vfio_group_use_container).

        Raises KernelError: EINVAL before VFIO_SET_IOMMU; EPERM without an IOMMU and CAP_SYS_RAWIO.
        """
        if self.driver is None:
            raise refuse(EINVAL, "VFIO_SET_IOMMU has not chosen a driver for the container yet", "object", "container")
        if self._noiommu:
            check_privilege(caller, "a container without an IOMMU")

    def _check_extension(self, extension: int) -> int:
        if self.driver is not None:
            return self.driver.extension(extension)
        return next((found for driver in self._allowed() if (found := driver.knows(extension)) > 0), 0)

    def _allowed(self) -> list[type[IommuDriver]]:
        """The drivers that suit the groups: every one, while there is none (vfio_iommu_driver_allowed).

        That for groups without an IOMMU knows nothing at all unless VFIO is in its unsafe mode.
        """
        known = [one for one in self._drivers if self.system.unsafe_noiommu or not one.serves_noiommu]
        return [one for one in known if not self.groups or one.serves_noiommu == self._noiommu]

    def _set_iommu(self, caller: Caller, kind: int) -> int:
        """Let the first driver that knows `kind` serve the groups (vfio_ioctl_set_iommu).

        Raises KernelError: EINVAL without a group or when one is chosen already, ENODEV when no driver knows it; what
        the last that was asked refuses.
        """
        if not self.groups:
            raise refuse(EINVAL, "a container without a group has nothing to map for", "object", "container")
        if self.driver is not None:
            raise refuse(EINVAL, "the container's driver is chosen already", "object", "container")
        refused = refuse(ENODEV, f"no IOMMU driver here knows type {kind}", "field", f"type={kind}")
        for one in self._allowed():
            if one.knows(kind) <= 0:
                continue
            try:
                self.driver = self._opened(one, caller, kind)
                return 0
            except KernelError as error:
                refused = error
        raise refused

    def _opened(self, kind_of_driver: type[IommuDriver], caller: Caller, kind: int) -> IommuDriver:
        """A driver that serves every group. Raises KernelError, with nothing changed."""
        driver = kind_of_driver.open(self.system, caller, kind)
        done: list[VfioGroup] = []
        try:
            for group in self.groups:
                driver.attach(group)
                done.append(group)
        except KernelError:
            for group in reversed(done):
                driver.detach(group)
            driver.release()
            raise
        return driver

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """EINVAL: nothing can be read."""
        raise refuse(EINVAL, "a container cannot be read", "file", "/dev/vfio/vfio")

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """EINVAL: nothing can be written."""
        raise refuse(EINVAL, "a container cannot be written", "file", "/dev/vfio/vfio")

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV: nothing can be mapped."""
        raise refuse(ENODEV, "a container cannot be mapped", "file", "/dev/vfio/vfio")

    def poll(self, caller: Caller) -> int:
        """Always ready."""
        return _ALWAYS_READY

    def close(self) -> None:
        """The file is closed; the groups that are in it keep the rest."""


def _number(request: int, argument: int | Buffer) -> int:
    if not isinstance(argument, int):
        raise UsageError(f"request {request:#x} takes a number, not a buffer")
    return argument
