"""Charges against RLIMIT_MEMLOCK in iommufd's three modes."""

from __future__ import annotations

import pytest

from ioas.errors import OutOfMemory
from ioas.soft.memory import Accounting, AccountMode


class Space:
    """The part of an address space that accounting sees."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.pinned_pages = 0
        self.locked_pages = 0

    def memlock_limit(self) -> int | None:
        return self.limit


def test_without_a_mode_pages_are_only_shown_as_pinned() -> None:
    accounting, space = Accounting(), Space(0)
    accounting.charge(AccountMode.NONE, space, 1000, 5)
    assert (space.pinned_pages, space.locked_pages, accounting.locked(1000)) == (5, 0, 0)
    accounting.uncharge(AccountMode.NONE, space, 1000, 5)
    assert space.pinned_pages == 0


def test_a_user_is_charged_over_all_processes_by_the_limit_of_the_asking_one() -> None:
    accounting, one, other = Accounting(), Space(8 * 4096), Space(4 * 4096)
    accounting.charge(AccountMode.USER, one, 1000, 5)
    with pytest.raises(OutOfMemory, match="RLIMIT_MEMLOCK=16384"):
        accounting.charge(AccountMode.USER, other, 1000, 1)
    accounting.charge(AccountMode.USER, one, 1000, 3)
    with pytest.raises(OutOfMemory):
        accounting.charge(AccountMode.USER, one, 1000, 1)
    assert (one.pinned_pages, one.locked_pages, other.pinned_pages, accounting.locked(1000)) == (8, 0, 0, 8)
    accounting.charge(AccountMode.USER, other, 1001, 4)
    accounting.uncharge(AccountMode.USER, one, 1000, 8)
    assert (one.pinned_pages, accounting.locked(1000), accounting.locked(1001)) == (0, 0, 4)


def test_an_address_space_is_charged_for_itself_in_mode_mm() -> None:
    accounting, one, other = Accounting(), Space(4 * 4096), Space(4 * 4096)
    accounting.charge(AccountMode.MM, one, 1000, 4)
    accounting.charge(AccountMode.MM, other, 1000, 4)
    with pytest.raises(OutOfMemory):
        accounting.charge(AccountMode.MM, one, 1000, 1)
    assert (one.pinned_pages, one.locked_pages, accounting.locked(1000)) == (4, 4, 0)
    accounting.uncharge(AccountMode.MM, one, 1000, 4)
    assert (one.pinned_pages, one.locked_pages) == (0, 0)


@pytest.mark.parametrize("mode", [AccountMode.USER, AccountMode.MM])
def test_the_limit_is_rounded_down_to_pages(mode: AccountMode) -> None:
    accounting, space = Accounting(), Space(2 * 4096 - 1)
    accounting.charge(mode, space, 0, 1)
    with pytest.raises(OutOfMemory):
        accounting.charge(mode, space, 0, 1)


def test_no_limit_is_no_limit() -> None:
    space = Space(None)
    Accounting().charge(AccountMode.USER, space, 0, 1 << 40)
    assert space.pinned_pages == 1 << 40
