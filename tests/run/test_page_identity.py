"""Which page is which, and how often it is pinned, is not our word alone: the kernel's frame numbers say the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from tests.run.conftest import CLIENTS, Runner

UNREADABLE = 77


def test_pages_and_their_pins_are_what_pagemap_and_vmpin_say(
    run: Runner, require: Callable[[str, str], NoReturn]
) -> None:
    """Shared, private and moved memory, other memory at its address, a child, and what is left after unmapping."""
    done = run(sys.executable, "-B", str(CLIENTS / "identity.py"), options=["--iommufd-test"])
    if done.returncode == UNREADABLE:
        require("root", "/proc/self/pagemap shows frame numbers to CAP_SYS_ADMIN alone")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "half of it unmapped: 12 pages mapped, 10 frames, VmPin 12"
