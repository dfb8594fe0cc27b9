"""`Group`: an IOMMU group as VFIO opens it (/dev/vfio/N), the way to devices where there is no cdev."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from ioas.api.files import OpenFile, Session
from ioas.errors import NotFound
from ioas.uapi.vfio import (
    VFIO_GROUP_FLAGS_VIABLE,
    VFIO_GROUP_GET_DEVICE_FD,
    VFIO_GROUP_GET_STATUS,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER,
    vfio_group_status,
)

if TYPE_CHECKING:
    from ioas.api.container import Container


class Group(OpenFile):
    """An open group. It can be open once, so all its devices on one host share the object: `Group.of` gives it out.

    Its node is called noiommu-N where no IOMMU stands in front of the devices.
    """

    def __init__(self, session: Session, path: str) -> None:
        """Raises KernelError as open(2) does; Busy when another program has it open."""
        self.users = 0
        self.container: Container | None = None
        super().__init__(session, path)
        session.groups[path] = self

    @classmethod
    def of(cls, session: Session, number: int) -> Group:
        """The group of a number, opened if it is not yet. Each use is to be ended by `release`."""
        try:
            group = cls._opened(session, f"/dev/vfio/{number}")
        except NotFound as error:
            try:
                group = cls._opened(session, f"/dev/vfio/noiommu-{number}")
            except NotFound:
                raise error from None
        group.users += 1
        return group

    @classmethod
    def _opened(cls, session: Session, path: str) -> Group:
        return session.groups.get(path) or cls(session, path)

    @property
    def viable(self) -> bool:
        """Whether every device of the group is free for user space: bound to VFIO, or to no driver at all."""
        command = vfio_group_status(argsz=ctypes.sizeof(vfio_group_status))
        self.ioctl(VFIO_GROUP_GET_STATUS, command)
        return bool(command.flags & VFIO_GROUP_FLAGS_VIABLE)

    def set_container(self, container: Container) -> None:
        """Let a container map memory for its devices. Raises InvalidArgument: it has one; NotPermitted; Busy."""
        self.ioctl(VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("i", container.fileno())))
        self.container = container

    def unset_container(self) -> None:
        """Take it out of its container. Raises InvalidArgument: it is in none; Busy while a device is open."""
        self.ioctl(VFIO_GROUP_UNSET_CONTAINER)
        self._left()

    def device_fd(self, bdf: str) -> int:
        """A new descriptor of one of its devices. Raises NoDevice when it is none of the group's."""
        return self.ioctl(VFIO_GROUP_GET_DEVICE_FD, bytearray(bdf.encode() + b"\0"))

    def release(self) -> None:
        """End one use; the last one closes the group, which leaves its container then."""
        self.users -= 1
        if not self.users:
            self.close()

    def close(self) -> None:
        """Close it. Idempotent."""
        self.session.groups.pop(self.path, None)
        super().close()
        self._left()

    def _left(self) -> None:
        container, self.container = self.container, None
        if container is not None:
            container.left_by(self)
