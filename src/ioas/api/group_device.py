"""`GroupDevice`: a PCI device that is opened through its group, on kernels without device nodes of their own."""

from __future__ import annotations

from posixpath import basename
from typing import TYPE_CHECKING

from ioas.api.container import Container
from ioas.api.device import Device
from ioas.api.files import Session
from ioas.api.group import Group
from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.api.hwpt import Hwpt
    from ioas.api.iommufd import Iommufd
    from ioas.api.space import Space


class GroupDevice(Device):
    """A PCI device by way of its group. Nothing but `bind` works before `bind`, which opens it."""

    def __init__(self, session: Session, bdf: str, number: int) -> None:
        """`number`: the group's. Raises KernelError as open(2) of /dev/vfio/N does."""
        self.group = Group.of(session, number)
        self._released = False
        super().__init__(session, bdf, self.group.path)

    def _open_node(self) -> None:
        """Nothing yet: the device comes out of the group when that has a container."""
        self.session.files.add(self)

    @property
    def no_iommu(self) -> bool:
        """Whether nothing translates or stops its DMA: the kernel says so in the name of the group's node."""
        return basename(self.path).startswith("noiommu-")

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._released

    def check_open(self) -> None:
        """Raises UsageError when closed, and before `bind`."""
        if self._released:
            raise UsageError(f"{self.bdf} is closed")
        if self._fd < 0:
            raise UsageError(f"{self.bdf} is not bound to a container yet, so its group does not open it")

    @property
    def id(self) -> int:
        """Refused: only an iommufd gives devices ids. Raises UsageError."""
        raise UsageError(f"{self.bdf} was opened through its group, and has no id")

    @property
    def container(self) -> Container | None:
        """The container that its group is in."""
        return self.group.container

    def bind(self, context: Iommufd | Container) -> None:
        """Set the group into a container, if it is in none, and open the device.

        Raises UsageError: not a container, another than the group's, or bound before; Busy, NotPermitted.
        """
        if not isinstance(context, Container):
            raise UsageError(f"{self.bdf} was opened through its group: bind it to a Container, not to {context!r}")
        if self._released or self._fd >= 0:
            raise UsageError(f"{self.bdf} is {'closed' if self._released else 'bound already'}")
        context.check_open()
        if self.group.container not in (None, context):
            raise UsageError(f"{self.group!r} is in another container than {context!r}")
        if self.group.container is None:
            context.add(self.group)
        fd = self.group.device_fd(self.bdf)
        self._own(fd, self.session.caller.file(fd))

    def _new_context(self) -> Container:
        return self.group.container or Container(self.session)

    def attach(self, target: Space | Hwpt, pasid: int | None = None) -> int:
        """Nothing but a check: a device is attached to the address space of its container by `bind`. Returns 0.

        Raises UsageError for another address space, and for a PASID.
        """
        self.check_open()
        target.check_open()
        if pasid is not None:
            raise UsageError("a container knows no PASIDs")
        if self.container is None or target is not self.container.ioas():
            raise UsageError(f"{target!r} is not the address space of {self.container!r}")
        return 0

    def detach(self, pasid: int | None = None) -> None:
        """Refused: a device leaves the address space of its container when it is closed. Raises UsageError."""
        raise UsageError(f"{self.bdf} was opened through its group: only closing it detaches it")

    def close(self) -> None:
        """Close the device, and the group with its last device. Idempotent."""
        released, self._released = self._released, True
        self.session.files.discard(self)
        try:
            super().close()
        finally:
            if not released:
                self.group.release()
