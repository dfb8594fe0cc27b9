"""/proc/PID/status with the machine's pins: two numbers change, every other byte stays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ioas.run.status import with_pins

TEXT = b"Name:\tx\nVmPeak:\t    9444 kB\nVmLck:\t       4 kB\nVmPin:\t       0 kB\nVmHWM:\t  100 kB\nThreads:\t1\n"


@pytest.mark.parametrize(("pinned", "shown"), [(0, b"       0"), (2, b"       8"), (1 << 24, b"67108864")])
def test_only_the_numbers_change(pinned: int, shown: bytes) -> None:
    space = SimpleNamespace(pinned_pages=pinned, locked_pages=0)
    assert with_pins(TEXT, space) == TEXT.replace(b"       0 kB", shown + b" kB")  # type: ignore[arg-type]


def test_locked_pages_are_added_to_the_kernels() -> None:
    space = SimpleNamespace(pinned_pages=0, locked_pages=3)
    assert b"VmLck:\t      16 kB\n" in with_pins(TEXT, space)  # type: ignore[arg-type]
