"""Watched registers in shared pages: the same rules, compiled and in Python."""

from __future__ import annotations

import pytest

from ioas.run.mmio.cells import MOST, Cells, CompiledCells, Place, PlainCells
from ioas.run.mmio.compiled import library
from ioas.soft.pci import RamPages

VALUES = 2


@pytest.fixture(params=["compiled", "python"])
def cells(request: pytest.FixtureRequest) -> Cells:
    if request.param == "python":
        return PlainCells()
    compiled = library()
    if compiled is None:
        pytest.skip("ioas was installed where there is no C compiler")
    return CompiledCells(compiled)


@pytest.fixture
def view() -> memoryview:
    return RamPages(4096).view


def places(view: memoryview, *doorbells: bool, width: int = 4) -> list[Place]:
    return [Place(view, width * number, width, doorbell) for number, doorbell in enumerate(doorbells)]


def test_nothing_has_changed_at_first_whatever_stands_there(cells: Cells, view: memoryview) -> None:
    view[0:4] = b"\1\2\3\4"
    cells.set(places(view, True, False))
    assert (list(cells.wait()), cells.value(0), cells.value(1)) == ([], 0x04030201, 0)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_store_is_found_once_with_its_value(cells: Cells, view: memoryview, width: int) -> None:
    cells.set(places(view, True, True, width=width))
    view[width : 2 * width] = bytes(range(1, width + 1))
    value = int.from_bytes(bytes(range(1, width + 1)), "little")
    assert list(cells.wait()) == [(1, value)]
    assert (list(cells.wait()), cells.value(1)) == ([], value)


def test_a_store_of_what_stands_there_is_none(cells: Cells, view: memoryview) -> None:
    cells.set(places(view, True))
    view[0:4] = bytes(4)
    assert not cells.wait()


def test_doorbells_come_after_what_has_been_stored_into_others(cells: Cells, view: memoryview) -> None:
    cells.set(places(view, True, False, True, False))
    for number in range(4):
        view[4 * number] = number + 1
    assert list(cells.wait()) == [(1, 2), (3, 4), (0, 1), (2, 3)]


def test_what_is_published_stands_there_and_is_no_store(cells: Cells, view: memoryview) -> None:
    cells.set(places(view, True))
    assert cells.publish(0, 0x11223344)
    assert bytes(view[0:4]) == b"\x44\x33\x22\x11"
    assert (list(cells.wait()), cells.value(0)) == ([], 0x11223344)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_store_that_has_not_been_found_is_not_overwritten(cells: Cells, view: memoryview, width: int) -> None:
    cells.set(places(view, True, width=width))
    view[0] = 7
    assert not cells.publish(0, 5)
    assert (view[0], list(cells.wait())) == (7, [(0, 7)])


def test_setting_them_anew_forgets_the_former_ones(cells: Cells, view: memoryview) -> None:
    cells.set(places(view, True, True))
    cells.interrupt()
    cells.set(places(view, False))
    view[4] = 1
    assert not cells.wait()


def test_there_is_a_limit(cells: Cells, view: memoryview) -> None:
    cells.set([Place(view, 0, 1, True)] * MOST)
    with pytest.raises(ValueError, match="cannot be polled"):
        cells.set([Place(view, 0, 1, True)] * (MOST + 1))
