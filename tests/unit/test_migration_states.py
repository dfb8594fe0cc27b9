"""Every cell of the kernel's table of migration states (vfio_mig_get_next_state, 7.3), and devices that lack some."""

from __future__ import annotations

from errno import EINVAL

import pytest

from ioas.soft.vfio.migration_states import HAS_P2P, HAS_PRE_COPY, HAS_STOP_COPY, NAMES, next_state
from tests.support.vfio_client import refused

ALL = HAS_STOP_COPY | HAS_P2P | HAS_PRE_COPY
NUMBERS = {name: number for number, name in NAMES.items()}

# The first step of each way, as the comment of vfio_mig_get_next_state lists the ways: one line for each state.
TABLE = """
from \\ to     STOP         RUNNING      STOP_COPY     RESUMING     RUNNING_P2P  PRE_COPY     PRE_COPY_P2P  ERROR
STOP          STOP         RUNNING_P2P  STOP_COPY     RESUMING     RUNNING_P2P  RUNNING_P2P  RUNNING_P2P   -
RUNNING       RUNNING_P2P  RUNNING      RUNNING_P2P   RUNNING_P2P  RUNNING_P2P  PRE_COPY     RUNNING_P2P   -
STOP_COPY     STOP         STOP         STOP_COPY     STOP         STOP         -            -             -
RESUMING      STOP         STOP         STOP          RESUMING     STOP         STOP         STOP          -
RUNNING_P2P   STOP         RUNNING      STOP          STOP         RUNNING_P2P  RUNNING      PRE_COPY_P2P  -
PRE_COPY      RUNNING      RUNNING      PRE_COPY_P2P  RUNNING      RUNNING      PRE_COPY     PRE_COPY_P2P  -
PRE_COPY_P2P  RUNNING_P2P  RUNNING_P2P  STOP_COPY     RUNNING_P2P  RUNNING_P2P  PRE_COPY     PRE_COPY_P2P  -
ERROR         -            -            -             -            -            -            -             -
"""
HEAD, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = [(row[0], target, step) for row in ROWS for target, step in zip(HEAD[3:], row[1:], strict=True)]

# What a device without P2P, without PRE_COPY, and without both does not stop at: (from, to, step).
WITHOUT_P2P = [
    ("RUNNING", "STOP", "STOP"),
    ("RUNNING", "STOP_COPY", "STOP"),
    ("RUNNING", "RESUMING", "STOP"),
    ("STOP", "RUNNING", "RUNNING"),
    ("STOP", "PRE_COPY", "RUNNING"),
    ("PRE_COPY", "STOP_COPY", "STOP_COPY"),
    ("PRE_COPY", "STOP", "RUNNING"),
    ("RUNNING", "RUNNING_P2P", "-"),
    ("RUNNING", "PRE_COPY_P2P", "-"),
]
WITHOUT_PRE_COPY = [
    ("RUNNING", "STOP_COPY", "RUNNING_P2P"),
    ("STOP", "RUNNING", "RUNNING_P2P"),
    ("RUNNING", "PRE_COPY", "-"),
    ("RUNNING_P2P", "PRE_COPY_P2P", "-"),
]
WITH_NEITHER = [
    ("RUNNING", "STOP", "STOP"),
    ("STOP", "RUNNING", "RUNNING"),
    ("STOP_COPY", "RUNNING", "STOP"),
    ("RESUMING", "RUNNING", "STOP"),
    ("RUNNING", "RUNNING_P2P", "-"),
    ("RUNNING", "PRE_COPY", "-"),
    ("RUNNING", "PRE_COPY_P2P", "-"),
]
LACKING = [
    *((HAS_STOP_COPY | HAS_PRE_COPY, *cell) for cell in WITHOUT_P2P),
    *((HAS_STOP_COPY | HAS_P2P, *cell) for cell in WITHOUT_PRE_COPY),
    *((HAS_STOP_COPY, *cell) for cell in WITH_NEITHER),
]


def check(flags: int, current: str, target: str, step: str) -> None:
    if step == "-":
        with refused(EINVAL):
            next_state(flags, NUMBERS[current], NUMBERS[target])
    else:
        assert NAMES[next_state(flags, NUMBERS[current], NUMBERS[target])] == step


def test_the_table_has_a_cell_for_every_pair_of_states() -> None:
    assert {(current, target) for current, target, _ in CELLS} == {(a, b) for a in NUMBERS for b in NUMBERS}


@pytest.mark.parametrize(("current", "target", "step"), CELLS)
def test_the_first_step_of_each_way_is_the_kernels(current: str, target: str, step: str) -> None:
    check(ALL, current, target, step)


@pytest.mark.parametrize(("flags", "current", "target", "step"), LACKING)
def test_states_that_a_device_lacks_are_passed_over(flags: int, current: str, target: str, step: str) -> None:
    check(flags, current, target, step)


@pytest.mark.parametrize("target", [8, 99, 0xFFFFFFFF])
def test_a_state_that_does_not_exist_is_refused(target: int) -> None:
    with refused(EINVAL):
        next_state(ALL, NUMBERS["RUNNING"], target)


@pytest.mark.parametrize("current", [name for name in NUMBERS if name != "ERROR"])
@pytest.mark.parametrize("target", [name for name in NUMBERS if name != "ERROR"])
def test_every_way_that_begins_ends_where_it_shall(current: str, target: str) -> None:
    if current == "STOP_COPY" and target.startswith("PRE_COPY"):
        return
    state, steps = NUMBERS[current], 0
    while state != NUMBERS[target]:
        state, steps = next_state(ALL, state, NUMBERS[target]), steps + 1
    assert steps <= 4
