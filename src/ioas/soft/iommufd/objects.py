"""Objects and their ids (struct iommufd_object and the xarray of main.c, 7.3).

Objects form a graph of use counts. A new object has one user, the table; whoever depends on it adds one, and
IOMMU_DESTROY wants the table to be the only one left. An id is reserved first, while creating may still fail, and
the object is published last. Ids are the lowest free ones, from 1.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from errno import EBUSY, ENOENT
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ioas.errors import Culprit, refuse

if TYPE_CHECKING:
    from ioas.soft.iommufd.context import Context
    from ioas.soft.memory import Failures

T = TypeVar("T", bound="Object")


class Object:
    """Something that an id of a context names. Creating one reserves its id."""

    __slots__ = ("context", "id", "users")

    kind: ClassVar[str] = "object"
    """For refusals: "IOAS", "page table", ..."""
    creator: ClassVar[Culprit] = Culprit("object", "its creator")
    """For refusals: who holds it beside other objects."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.users = 1
        self.id = context.objects.reserve()

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    def uses(self) -> Sequence[Object]:
        """The objects that this one depends on, and that cannot go before it (for refusals)."""
        return ()

    def held_by(self) -> Culprit | None:
        """What keeps it from being destroyed although no object does; asked last."""
        return None

    def destroy(self) -> None:
        """Release everything that this object holds; it is out of the table already. Cannot fail."""
        raise NotImplementedError


class ObjectTable:
    """The objects of one context, by id."""

    __slots__ = ("_failures", "_free", "_next", "_objects")

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._objects: dict[int, Object | None] = {}
        """None: the id is reserved for an object that is being made."""
        self._free: list[int] = []
        self._next = 1

    def __len__(self) -> int:
        """How many ids are taken."""
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        """The published objects, by id, as they are now."""
        return iter([entry for _, entry in sorted(self._objects.items()) if entry is not None])

    def reserve(self) -> int:
        """The lowest free id, taken from now on. Raises KernelError(ENOMEM) on request (`Failures`)."""
        self._failures.point("object")
        if self._free:
            number = heapq.heappop(self._free)
        else:
            number = self._next
            self._next += 1
        self._objects[number] = None
        return number

    def publish(self, entry: Object) -> None:
        """Let `entry` be found by its id: nothing can fail any more (iommufd_object_finalize)."""
        self._objects[entry.id] = entry

    def abandon(self, entry: Object) -> None:
        """Free the id of an object that was not published (iommufd_object_abort)."""
        del self._objects[entry.id]
        heapq.heappush(self._free, entry.id)

    def get(self, number: int, kind: type[T]) -> T:
        """The object `number`, of the class `kind` (`Object` for any).

        Raises KernelError(ENOENT) when there is none or it is of another kind.
        """
        entry = self._objects.get(number)
        if isinstance(entry, kind):
            return entry
        wanted = f"no {kind.kind} has id {number}"
        if entry is None:
            raise refuse(ENOENT, wanted, "object", number)
        raise refuse(ENOENT, f"{wanted}; that is {entry}", "object", entry)

    def destroy(self, number: int) -> None:
        """Destroy the object `number` (iommufd_object_remove).

        Raises KernelError: ENOENT when there is none, EBUSY while something else uses it.
        """
        entry = self.get(number, Object)
        users = self.users_of(entry) if entry.users != 1 else []
        if not users and (holder := entry.held_by()) is not None:
            users = [holder]
        if users:
            names = ", ".join(user.name for user in users)
            raise refuse(EBUSY, f"{entry} is in use by {names}", users[0].kind, names)
        self._drop(entry)

    def put_and_destroy(self, entry: Object) -> bool:
        """Give back one use of `entry`, and destroy it if that was the last one; whether it was."""
        entry.users -= 1
        if entry.users != 1:
            return False
        self._drop(entry)
        return True

    def bury(self, entry: Object) -> None:
        """Destroy `entry`, and let nothing else ever have its id (iommufd_object_tombstone_user)."""
        self._objects[entry.id] = None
        entry.destroy()

    def destroy_all(self) -> None:
        """Destroy every object, leaves first (iommufd_fops_release)."""
        progress = True
        while progress:
            progress = False
            for entry in self:
                if entry.users == 1 and self._objects.get(entry.id) is entry:
                    self._drop(entry)
                    progress = True

    def users_of(self, entry: Object) -> list[Culprit]:
        """Who uses `entry`: objects by name, and whoever made it (for refusals)."""
        users = [Culprit("object", str(other)) for other in self if entry in other.uses()]
        if entry.users - 1 > len(users):
            users.append(entry.creator)
        return users

    def _drop(self, entry: Object) -> None:
        del self._objects[entry.id]
        heapq.heappush(self._free, entry.id)
        entry.destroy()
