"""When descriptors run out in the supervisor, nothing that was being made stays behind."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

import pytest

from ioas.host import File
from ioas.host.local import LocalCaller
from ioas.run.files import Files
from ioas.soft.host import SoftHost


@pytest.fixture
def host() -> Iterator[SoftHost]:
    with SoftHost() as machine:
        yield machine


@pytest.fixture
def files() -> Iterator[Files]:
    failures: list[Exception] = []
    made = Files(failures.append)
    yield made
    made.close_all()
    assert not failures


def opened(host: SoftHost) -> File:
    return host.open(LocalCaller(), "/dev/iommu", os.O_RDWR)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def fill(room: int) -> list[int]:
    """Use up every number below the limit, and free `room` of them."""
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        for _ in range(room):
            os.close(taken.pop())
    return taken


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_file_for_which_there_is_no_descriptor_is_closed(host: SoftHost, files: Files, room: int) -> None:
    """None at all, one where a pair takes two; and two, with which all is well."""
    file, before = opened(host), descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, limits[1]))
    taken = fill(room)
    end = failure = None
    try:
        end = files.create(file, "/dev/iommu")
    except OSError as error:
        failure = error.errno
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)
    assert failure == (errno.EMFILE if room < 2 else None)
    if end is not None:
        os.close(end)
        files.drain()
    assert descriptors() == before
    assert not host.leaks()
    assert len(files) == 0
