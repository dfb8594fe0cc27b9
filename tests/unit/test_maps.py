"""The areas of an address space: the text of /proc/PID/maps, and the kernel's answer for one address."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

import pytest

from ioas.host.maps import Maps, Vma, page_order, parse

LINES = b"""\
55d0c8a00000-55d0c8a02000 r--p 00001000 fe:02 1234567                    /usr/bin/a program
7f0000000000-7f0000001000 rw-s 00002000 00:01 42                         /memfd:ram (deleted)
7f0000002000-7f0000003000 ---p 00000000 00:00 0
7ffc00000000-7ffc00021000 rwxp 00000000 00:00 0                          [stack]
"""


def test_a_line_becomes_an_area() -> None:
    program, shared, hole, stack = parse(LINES)
    assert program == Vma(
        0x55D0C8A00000, 0x55D0C8A02000, 1, False, 0x1000, os.makedev(0xFE, 2), 1234567, b"/usr/bin/a program"
    )
    assert (shared.shared, shared.protection, shared.path) == (True, 3, b"/memfd:ram (deleted)")
    assert (hole.protection, hole.path) == (0, b"")
    assert (stack.protection, stack.path) == (7, b"[stack]")


def test_an_address_has_its_place_in_the_file() -> None:
    assert parse(LINES)[1].file_offset(0x7F0000000123) == 0x2123


@pytest.fixture(params=["query", "text"])
def maps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Maps:
    """The areas of this process, by either way."""
    found = Maps()
    if request.param == "text":
        monkeypatch.setattr(found, "_can_query", False)
    elif not found.can_query():
        pytest.skip("the kernel has no PROCMAP_QUERY (6.11)")
    return found


def test_both_ways_agree_on_every_area() -> None:
    """Of a process that stands still."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"x\n"  # it has been loaded
        with Maps(process.pid) as maps:
            for vma in maps.all():
                if vma.path != b"[vsyscall]":
                    asked = maps.at(vma.end - 1)
                    assert asked is not None
                    assert asked._replace(page_size=0) == vma
        process.stdin.close()


def test_areas_are_found_by_address_and_by_range(maps: Maps) -> None:
    memory = mmap.mmap(-1, 1 << 20, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    view = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(view)
    vma = maps.at(start + 5)
    assert vma is not None
    assert vma.shared
    assert (vma.start, vma.end) == (start, start + (1 << 20))
    assert vma in maps.covering(start - 1, start + 1)
    assert maps.at(1) is None
    above = maps.next(1)
    assert above is not None
    assert above.start > 1
    assert maps.next(1 << 63) is None or sys.maxsize < 1 << 63
    assert page_order(vma) == 0
    del view


def test_maps_stay_with_the_memory_that_they_were_opened_for() -> None:
    script = "import os; os.read(0, 3); os.execvp('cat', ['cat'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with Maps(process.pid) as maps:
            assert maps.all()
            process.stdin.write(b"go\nround\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"round\n"  # cat is there
            for ask in (maps.all, lambda: maps.next(0)):
                with pytest.raises(ProcessLookupError):
                    ask()
        process.stdin.close()
