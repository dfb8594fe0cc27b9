"""Memory of a device: declared, used by the model and by software, hidden and shown again."""

from __future__ import annotations

import mmap
import os
from typing import ClassVar

import pytest

from ioas.errors import UsageError
from ioas.soft.pci import Bar, Capability, Function, Msix, Ram, RamPages, header
from tests.support.machine import machine, set_command

PAGE = 4096


class Screen(Function):
    """Registers and a palette in one BAR, a frame buffer in another."""

    model = "screen"
    vendor_id = 0x1234
    device_id = 2
    registers = Bar(0, 1 << 14)
    window = Bar(2, 1 << 20, "mem64", prefetchable=True)
    mode = registers.register(0)
    palette = registers.memory(PAGE, PAGE)
    frame = window.memory()


@pytest.fixture
def screen() -> Screen:
    function = Screen()
    machine(function)
    set_command(function, 0x2)
    return function


def test_the_model_sees_its_memory_as_a_memoryview_and_the_class_its_declaration(screen: Screen) -> None:
    assert isinstance(Screen.frame, Ram)
    assert (len(screen.frame), len(screen.palette)) == (1 << 20, PAGE)
    assert not any(screen.frame)


@pytest.mark.parametrize("length", [1, 2, 4, 8, 32, 64])
def test_software_and_the_model_see_the_same_bytes(screen: Screen, length: int) -> None:
    data = bytes(range(1, length + 1))
    screen.bar_write(2, 0x1003, data)
    assert screen.frame[0x1003 : 0x1003 + length] == data
    screen.frame[0x2001 : 0x2001 + length] = data
    assert screen.bar_read(2, 0x2001, length) == data


def test_memory_and_registers_share_a_bar(screen: Screen) -> None:
    screen.bar_write(0, 0, b"\1\2\3\4")
    screen.bar_write(0, PAGE, b"\5\6\7\x08")
    assert (screen.mode, bytes(screen.palette[:4])) == (0x04030201, b"\5\6\7\x08")


def test_memory_does_not_answer_while_decoding_is_off(screen: Screen) -> None:
    screen.config.write(header.COMMAND, b"\0\0")
    screen.bar_write(2, 0, b"\1")
    assert (screen.bar_read(2, 0, 1), screen.frame[0]) == (b"\xff", 0)


def test_a_reset_leaves_memory_alone(screen: Screen) -> None:
    screen.frame[7] = 7
    screen.reinitialise()
    assert screen.frame[7] == 7


def test_each_function_has_memory_of_its_own() -> None:
    one, other = Screen(), Screen()
    one.frame[0] = 1
    assert other.frame[0] == 0


@pytest.mark.parametrize(("offset", "size"), [(1, PAGE), (0, 100), (0, 0), (PAGE, 1 << 14), (-PAGE, PAGE)])
def test_what_are_not_whole_pages_of_the_window_is_refused(offset: int, size: int) -> None:
    with pytest.raises(UsageError, match="memory"):
        Bar(0, 1 << 14).memory(offset, size)


def test_ports_are_no_memory() -> None:
    with pytest.raises(UsageError, match="memory cannot stand"):
        Bar(0, 256, "io").memory()


def test_memory_that_overlaps_a_register_or_other_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="value lies in the memory store"):

        class Registers(Function):
            window = Bar(0, 1 << 14)
            value = window.register(PAGE + 8)
            store = window.memory(PAGE, PAGE)

    with pytest.raises(UsageError, match="one lies in the memory other"):

        class Twice(Function):
            window = Bar(0, 1 << 14)
            one = window.memory(0, 2 * PAGE)
            other = window.memory(PAGE, PAGE)


def test_an_msix_table_in_memory_is_refused() -> None:
    class Table(Function):
        window = Bar(0, 1 << 14)
        store = window.memory()
        capabilities: ClassVar[tuple[Capability, ...]] = (Msix(2, 0),)

    with pytest.raises(UsageError, match="the MSI-X table lie in memory of BAR 0"):
        Table()


def test_hidden_memory_is_empty_for_others_and_whole_for_us() -> None:
    pages = RamPages(4 * PAGE)
    view = pages.view
    view[PAGE : PAGE + 3] = b"abc"
    pages.hide()
    assert (pages.hidden, os.fstat(pages.fd).st_size) == (True, 0)
    assert bytes(view[PAGE : PAGE + 3]) == b"abc"
    view[PAGE] = ord("x")
    pages.show()
    assert (pages.hidden, os.pread(pages.fd, 3, PAGE)) == (False, b"xbc")
    with mmap.mmap(pages.fd, 4 * PAGE) as other:
        other[0] = 9
    assert view[0] == 9


def test_hiding_and_showing_twice_changes_nothing() -> None:
    pages = RamPages(PAGE)
    pages.view[0] = 5
    pages.hide()
    pages.hide()
    pages.show()
    pages.show()
    assert (pages.view[0], os.pread(pages.fd, 1, 0)) == (5, b"\5")


def test_no_descriptor_is_left_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pages = RamPages(PAGE)
    pages.hide()
    del pages
    assert len(os.listdir("/proc/self/fd")) == before
