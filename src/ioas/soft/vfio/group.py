"""VFIO groups: `VfioGroup` is one, as long as vfio-pci has a function of it; `GroupFile` is an open /dev/vfio/N.

Follows drivers/vfio/group.c (7.3). A group is open once, and not while one of its devices is bound by its cdev. It
gets a container, or an iommufd in the place of one, and then gives out its devices. The DMA of all its functions is
claimed with a container of VFIO's own, and with the first device where an iommufd stands in its place.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from errno import EBADF, EBADFD, EBUSY, EINVAL, ENODEV, ENOTTY
from typing import TYPE_CHECKING

from ioas.errors import KernelError, WrongFile, refuse
from ioas.host import PAGE_SIZE, Caller, File
from ioas.soft.iommufd import Context
from ioas.soft.iommufd.compat import check_no_ioas, compat_ioas, create_compat_ioas, set_no_iommu
from ioas.soft.vfio.argument import Argument, copy_in
from ioas.soft.vfio.container import Container
from ioas.soft.vfio.device_name import match
from ioas.soft.vfio.group_device import GroupDevice
from ioas.soft.vfio.hot_reset import GroupProof
from ioas.soft.vfio.noiommu import GROUP_NAME, PREFIX, check_privilege
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import Group
    from ioas.soft.vfio.device import VfioDevice

_ALWAYS_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM


class VfioGroup:
    """An IOMMU group of which vfio-pci has functions. `System.lock` is held for every method."""

    def __init__(self, group: Group, number: tuple[int, int]) -> None:
        """`number`: the node's major and minor."""
        self.group = group
        self.number = number
        self.noiommu = group.name == GROUP_NAME
        """No IOMMU stands before its function."""
        self.name = f"{PREFIX if self.noiommu else ''}{group.id}"
        """The node's, below /dev/vfio."""
        self.devices: list[VfioDevice] = []
        """Those that vfio-pci has, the latest first."""
        self.drivers = 0
        """How many it has or has yet to let go of: open devices keep the group, though it gives them out no more."""
        self.file: GroupFile | None = None
        """Who has it open."""
        self.container: Container | None = None
        self.iommufd: Context | None = None
        """Where it has an iommufd in the place of a container."""
        self.gone = False
        """vfio-pci has let go of its last function: what is open is of no use any more."""
        self._users: list[VfioDevice] = []
        """Devices that are open by way of the container."""
        self._cdevs: list[VfioDevice] = []
        """Devices that are bound by their cdev."""

    @property
    def has_iommu(self) -> bool:
        """Whether it has a container or an iommufd."""
        return self.container is not None or self.iommufd is not None

    def block(self, device: VfioDevice) -> None:
        """A cdev is to be bound: keep the group from being opened. Raises KernelError(EBUSY) when it is open."""
        if self.file is not None:
            raise refuse(EBUSY, f"{device.name} cannot be bound by its cdev: its group is open", "group", self.name)
        self._cdevs.append(device)

    def unblock(self, device: VfioDevice) -> None:
        """Undo one `block`."""
        self._cdevs.remove(device)

    def check_open(self, caller: Caller) -> None:
        """Whether `caller` may open it now (vfio_group_fops_open).

        Raises KernelError: ENODEV without functions; EPERM without an IOMMU and CAP_SYS_RAWIO; EBUSY when it is open,
        or a device is bound by its cdev.
        """
        if self.gone:
            raise refuse(ENODEV, "vfio-pci has no function of the group any more", "group", self.name)
        if self.noiommu:
            check_privilege(caller, f"group {self.name}")
        if self._cdevs:
            names = _names(self._cdevs)
            raise refuse(EBUSY, f"{names} is bound by its cdev (/dev/vfio/devices)", "device", names)
        if self.file is not None:
            raise refuse(EBUSY, "the group is open already, which it can be once", "group", self.name)

    def set_container(self, caller: Caller, fd: int) -> None:
        """Give it the container of a descriptor, or an iommufd in its place (vfio_group_ioctl_set_container).

        Raises KernelError: EBADF; EINVAL when it has one, ENODEV without functions, EBADFD for another kind of file;
        and what `Container.attach` and `create_compat_ioas` refuse.
        """
        file = _file(caller, fd)
        if self.has_iommu:
            raise refuse(EINVAL, "the group is in a container already", "group", self.name)
        if self.gone:
            raise refuse(ENODEV, "vfio-pci has no function of the group any more", "group", self.name)
        if isinstance(file, Container):
            file.attach(caller, self)
            self.container = file
        elif isinstance(file, Context):
            if self.noiommu:
                set_no_iommu(file)
            else:
                create_compat_ioas(file)
            file.get()
            self.iommufd = file
        else:
            raise refuse(EBADFD, "the descriptor is neither a container nor an iommufd", "file", fd)

    def unset_container(self) -> None:
        """Take it out. Raises KernelError: EINVAL when it is in none, EBUSY while a device is open by way of it."""
        if not self.has_iommu:
            raise refuse(EINVAL, "the group is in no container", "group", self.name)
        if self._users:
            names = _names(self._users)
            raise refuse(EBUSY, f"{names} is open by way of the container", "device", names)
        self._leave()

    def use(self, caller: Caller, device: VfioDevice) -> None:
        """Open `device` for one more file (vfio_df_group_open).

        Raises KernelError: EINVAL without a container, or before VFIO_SET_IOMMU; EPERM when the DMA belongs to another,
        or without an IOMMU and CAP_SYS_RAWIO.
        """
        if not self.has_iommu:
            raise refuse(EINVAL, "the group is in no container (VFIO_GROUP_SET_CONTAINER)", "group", self.name)
        first = not device.opens
        if first and self.noiommu and self.iommufd is not None:
            check_privilege(caller, f"group {self.name}")
            check_no_ioas(self.iommufd)
        if self.container is not None and first:
            self.container.check_use(caller)
        device.open(self.iommufd, by_group=True)
        if self.container is not None and first:
            self._users.append(device)
        if self.iommufd is not None and first and not self.noiommu:
            try:
                device.attach(compat_ioas(self.iommufd).id, None)
            except KernelError:
                device.close()
                raise

    def unuse(self, device: VfioDevice) -> None:
        """Close `device` for one file. The group's own file is released with the last device, if it is closed."""
        in_container = device.context is None
        device.close()
        if in_container and not device.opens:
            self._users.remove(device)
            if self.file is not None and self.file.closed:
                self.release()

    def release(self) -> None:
        """The file is closed: leave the container, unless devices are open by way of it, which keep the file."""
        if not self._users:
            self._leave()
            self.file = None

    def end(self) -> None:
        """vfio-pci has let go of its last function (vfio_device_remove_group)."""
        self.gone = True
        if self.container is not None:
            self._leave()

    def _leave(self) -> None:
        container, iommufd = self.container, self.iommufd
        self.container = self.iommufd = None
        if container is not None:
            container.detach(self)
        if iommufd is not None:
            iommufd.put()


class GroupFile(GroupProof):
    """An open group (implements `ioas.host.File`)."""

    def __init__(self, caller: Caller, group: VfioGroup) -> None:
        """Raises KernelError as `VfioGroup.check_open`."""
        self.group = group
        self.closed = False
        self._lock = group.group.system.lock
        with self._lock:
            group.check_open(caller)
            group.file = self

    @property
    def device_number(self) -> tuple[int, int]:
        """The node's major and minor."""
        return self.group.number

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """VFIO_GROUP_*. Raises KernelError; ENOTTY for a request that is none of a group's."""
        handler = _COMMANDS.get(request)
        if handler is None:
            raise refuse(ENOTTY, f"{request:#x} is not a request of a group", "request", f"{request:#x}")
        return handler(self, caller, Argument(caller, argument))

    def get_status(self, caller: Caller, argument: Argument) -> int:
        """VFIO_GROUP_GET_STATUS. Raises KernelError: EFAULT, EINVAL, ENODEV without functions."""
        status = copy_in(argument, uapi.vfio_group_status, "flags")
        group = self.group
        with self._kept_open():
            if group.gone:
                raise refuse(ENODEV, "vfio-pci has no function of the group any more", "group", group.name)
            status.flags = 0
            if group.has_iommu:
                status.flags = uapi.VFIO_GROUP_FLAGS_CONTAINER_SET | uapi.VFIO_GROUP_FLAGS_VIABLE
            elif not group.group.claimed:
                status.flags = uapi.VFIO_GROUP_FLAGS_VIABLE
        argument.write(0, bytes(status))
        return 0

    def set_container(self, caller: Caller, argument: Argument) -> int:
        """VFIO_GROUP_SET_CONTAINER. Raises KernelError: EFAULT, EBADF, and as `VfioGroup.set_container`."""
        (fd,) = struct.unpack("i", argument.read(0, 4))
        with self._kept_open():
            self.group.set_container(caller, fd)
        return 0

    def unset_container(self, caller: Caller, argument: Argument) -> int:
        """VFIO_GROUP_UNSET_CONTAINER. Raises KernelError as `VfioGroup.unset_container`."""
        with self._kept_open():
            self.group.unset_container()
        return 0

    def get_device_fd(self, caller: Caller, argument: Argument) -> int:
        """VFIO_GROUP_GET_DEVICE_FD: a new descriptor of the device that is named.

        Raises KernelError: EFAULT, EINVAL for a name without an end or a wrong token, ENODEV when none of the devices
        has it; and as `VfioGroup.use`.
        """
        name = _string(argument)
        with self._kept_open():
            device = next((device for device in self.group.devices if match(device, name)), None)
            if device is None:
                known = _names(self.group.devices)
                raise refuse(ENODEV, f"the group has {known}, and no device {name!r}", "group", self.group.name)
            self.group.use(caller, device)
            try:
                file = self.make(device)
            except BaseException:
                self.group.unuse(device)
                raise
        try:
            return caller.install(file)
        except BaseException:
            file.close()
            raise

    @contextmanager
    def _kept_open(self) -> Iterator[None]:
        """Hold the machine's lock, with the file open: another thread may have closed it meanwhile.

        In the kernel a call holds its file open; a closed file of ours refuses. Raises KernelError(EBADF).
        """
        with self._lock:
            if self.closed:
                raise refuse(EBADF, "the group file has been closed during the call", "group", self.group.name)
            yield

    def make(self, device: VfioDevice) -> GroupDevice:
        """The file for a device that has been opened."""
        return GroupDevice(device, self.group)

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """EINVAL: nothing can be read."""
        raise refuse(EINVAL, "a group file cannot be read", "file", self.group.name)

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """EINVAL: nothing can be written."""
        raise refuse(EINVAL, "a group file cannot be written", "file", self.group.name)

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV: nothing can be mapped."""
        raise refuse(ENODEV, "a group file cannot be mapped", "file", self.group.name)

    def poll(self, caller: Caller) -> int:
        """Always ready."""
        return _ALWAYS_READY

    def close(self) -> None:
        """The group leaves its container, once no device of it is open any more. Idempotent."""
        with self._lock:
            if not self.closed:
                self.closed = True
                self.group.release()


def _names(devices: Iterable[VfioDevice]) -> str:
    return ", ".join(device.name for device in devices)


def _file(caller: Caller, fd: int) -> File | None:
    """The host's file; None for one of others, which is refused later. Raises KernelError(EBADF)."""
    try:
        return caller.file(fd)
    except WrongFile:
        return None


def _string(argument: Argument) -> str:
    """The text at the argument, page by page up to its NUL (strndup_user). Raises KernelError: EFAULT, EINVAL."""
    data = b""
    while b"\0" not in data:
        if len(data) >= PAGE_SIZE:
            raise refuse(EINVAL, f"the name has no end within {PAGE_SIZE} bytes", "field", "name")
        data += argument.read_some(len(data), PAGE_SIZE - len(data))
    return data.partition(b"\0")[0].decode(errors="surrogateescape")


_COMMANDS: dict[int, Callable[[GroupFile, Caller, Argument], int]] = {
    uapi.VFIO_GROUP_GET_DEVICE_FD: GroupFile.get_device_fd,
    uapi.VFIO_GROUP_GET_STATUS: GroupFile.get_status,
    uapi.VFIO_GROUP_SET_CONTAINER: GroupFile.set_container,
    uapi.VFIO_GROUP_UNSET_CONTAINER: GroupFile.unset_container,
}
