"""Devices through the API: binding, registers, configuration space, reset (`ioas.api.device`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from ioas.api import SoftHost
from ioas.errors import EnvironmentRefusal, InvalidArgument, UsageError
from tests.support.room import Room, opened


@pytest.fixture
def room() -> Iterator[Room]:
    with opened() as room:
        yield room


def test_a_host_knows_its_devices() -> None:
    with SoftHost(["edu", "edu,addr=0000:07:00.0"]) as host:
        assert host.devices() == ["0000:01:00.0", "0000:07:00.0"]
        with pytest.raises(UsageError, match="no PCI device"):
            host.device("0000:09:00.0")


def test_regions_are_those_of_the_device(room: Room) -> None:
    assert room.device.info().num_regions == 9
    assert [(region.name, region.size) for region in room.device.regions()] == [("BAR 0", 1 << 20), ("config", 256)]
    with pytest.raises(UsageError, match="no BAR 1"):
        room.device.bar(1)
    with pytest.raises(InvalidArgument):
        room.device.region(99)


FORKS = """
import os, sys
from ioas import SoftHost
from ioas.errors import EnvironmentRefusal
with SoftHost() as host, host.iommufd() as iommufd:
    space = iommufd.ioas()
    if os.fork() == 0:
        try:
            space.ranges()
        except EnvironmentRefusal as error:
            print("refused:", error)
            os._exit(0)
        os._exit(1)
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_forked_child_is_refused_clearly() -> None:
    done = subprocess.run([sys.executable, "-u", "-c", FORKS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ioas run" in done.stdout
    assert issubclass(EnvironmentRefusal, Exception)
