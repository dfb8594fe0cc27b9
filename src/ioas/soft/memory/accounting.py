"""How pinned pages are charged, in iommufd's three modes.

Follows iopt_pages_update_pinned, incr_user_locked_vm, decr_user_locked_vm and update_mm_locked_vm
(drivers/iommu/iommufd/pages.c, 7.3) and __account_locked_vm (mm/util.c). CAP_IPC_LOCK does not appear
here: whoever creates the pages and has it chooses `AccountMode.NONE`, as iopt_alloc_pages does.
"""

from __future__ import annotations

import enum
import threading
from errno import ENOMEM
from typing import Protocol

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT


class AccountMode(enum.Enum):
    """What is held against RLIMIT_MEMLOCK."""

    NONE = 0
    """Nothing: the owner has CAP_IPC_LOCK."""
    USER = 1
    """The pages that all processes of the user have locked, as io_uring counts."""
    MM = 2
    """The pages that this address space has locked, as VFIO's type1 container counts."""


class Payer(Protocol):
    """The part of an `AddressSpace` that accounting needs."""

    pinned_pages: int
    locked_pages: int

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes; None for no limit."""
        ...


class Accounting:
    """The ledger of locked pages of one machine. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[int, int] = {}

    def charge(self, mode: AccountMode, memory: Payer, uid: int, pages: int) -> None:
        """Charge `pages` pages to user `uid` or to `memory`.

        The limit is that of `memory`'s process, rounded down to pages. `memory.pinned_pages` rises in
        every mode, `memory.locked_pages` in mode MM.

        Raises KernelError(ENOMEM) when the limit would be exceeded; then nothing has changed.
        """
        with self._lock:
            if mode is AccountMode.USER:
                locked = self._users.get(uid, 0)
                _check_limit(memory, locked, pages, f"user {uid}")
                self._users[uid] = locked + pages
            elif mode is AccountMode.MM:
                _check_limit(memory, memory.locked_pages, pages, "the process")
                memory.locked_pages += pages
            memory.pinned_pages += pages

    def uncharge(self, mode: AccountMode, memory: Payer, uid: int, pages: int) -> None:
        """Undo a charge of `pages` pages. Cannot fail."""
        with self._lock:
            if mode is AccountMode.USER:
                locked = self._users.get(uid, 0) - pages
                if locked > 0:
                    self._users[uid] = locked
                else:
                    self._users.pop(uid, None)
            elif mode is AccountMode.MM:
                memory.locked_pages -= pages
            memory.pinned_pages -= pages

    def lock(self, memory: Payer, pages: int, *, bypass: bool) -> None:
        """Count `pages` pages as locked by `memory`, as a VFIO container does: in VmLck alone (__account_locked_vm).

        With `bypass` (CAP_IPC_LOCK) they are counted and not limited. Raises KernelError(ENOMEM) as `charge`.
        """
        with self._lock:
            if pages and not bypass:
                _check_limit(memory, memory.locked_pages, pages, "the process")
            memory.locked_pages += pages

    def unlock(self, memory: Payer, pages: int) -> None:
        """Undo a `lock`. Cannot fail."""
        with self._lock:
            memory.locked_pages -= pages

    def locked(self, uid: int) -> int:
        """The pages that user `uid` has locked in mode USER."""
        return self._users.get(uid, 0)


def _check_limit(memory: Payer, locked: int, pages: int, who: str) -> None:
    limit = memory.memlock_limit()
    if limit is not None and locked + pages > limit >> PAGE_SHIFT:
        raise refuse(
            ENOMEM,
            f"{who} has {locked} pages locked and asks for {pages} more, but may lock {limit >> PAGE_SHIFT}",
            "limit",
            f"RLIMIT_MEMLOCK={limit}",
        )
