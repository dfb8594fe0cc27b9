"""The affinity of children whose makers are served, whichever of the two the kernel tells of first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from ioas.run.mmio.near import Near


@pytest.fixture
def near() -> Iterator[Near]:
    whole = os.sched_getaffinity(0)
    if len(whole) < 2:
        pytest.skip("there is one processor")
    near = Near()
    yield near
    near.close()
    os.sched_setaffinity(0, whole)


@pytest.fixture
def maker(near: Near, process: int) -> int:
    """A thread that has been served once, and runs where it likes."""
    near.resume(process, 0)
    return process


@pytest.fixture
def process() -> Iterator[int]:
    yield from sleeper()


@pytest.fixture
def child(near: Near, maker: int) -> Iterator[int]:
    """It was made while its maker was being woken here."""
    for pid in sleeper():
        os.sched_setaffinity(pid, os.sched_getaffinity(0))
        yield pid


def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_a_child_gets_what_its_maker_may(near: Near, maker: int, child: int) -> None:
    assert os.sched_getaffinity(child) != os.sched_getaffinity(maker)
    near.forked(maker, child)
    assert os.sched_getaffinity(child) == os.sched_getaffinity(maker)


def test_it_does_before_its_maker_is_told_of(near: Near, maker: int, child: int) -> None:
    near.born(child, [maker])
    assert os.sched_getaffinity(child) == os.sched_getaffinity(maker)


def test_what_it_has_set_itself_meanwhile_stays(near: Near, maker: int, child: int) -> None:
    own = {max(os.sched_getaffinity(maker))}
    near.born(child, [maker])
    os.sched_setaffinity(child, own)
    near.forked(maker, child)
    assert os.sched_getaffinity(child) == own


def test_of_several_possible_makers_the_right_one_counts_in_the_end(near: Near, maker: int, child: int) -> None:
    for other in sleeper():
        os.sched_setaffinity(other, {max(os.sched_getaffinity(maker))})
        near.born(child, [other, maker])
        near.forked(maker, child)
    assert os.sched_getaffinity(child) == os.sched_getaffinity(maker)


def test_a_child_that_is_gone_is_no_error(near: Near, maker: int) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    near.born(gone.pid, [maker])
    near.forked(maker, gone.pid)
    near.ended(gone.pid)
