"""An unmodified QEMU passes our edu through to its machine: its accesses to the guest's BAR reach the device model.

The guest's processor stands still (-S): the test makes the port and memory accesses, and QEMU carries those to the BAR
out on its mapping of ours.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.clients.qtest import BAR, MEMORY_AND_MASTER, Guest
from tests.run.conftest import Runner


@pytest.fixture(params=["", ",x-no-mmap=on"], ids=["mapped", "x-no-mmap"])
def guest(request: pytest.FixtureRequest, run: Runner, qemu: tuple[str, ...]) -> Iterator[Guest]:
    device = f"vfio-pci,host=0000:01:00.0,iommufd=i,addr=03.0{request.param}"
    command = [*qemu, "-machine", "q35", "-accel", "tcg", "-S", "-display", "none", "-qtest", "stdio", "-nodefaults"]
    command += ["-m", "4", "-object", "iommufd,id=i", "-device", device]  # an ordinary user may lock 8 MiB
    process = subprocess.Popen(
        run.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        try:
            yield Guest(process)
        finally:
            process.terminate()


def test_the_guests_loads_and_stores_reach_the_model(guest: Guest) -> None:
    assert guest.config_read(0) == 0x11E81234
    guest.config_write(0x10, BAR)
    guest.config_write(0x04, MEMORY_AND_MASTER)
    assert guest.ask("readl", BAR) == 0x010000ED
    guest.ask("writel", BAR + 4, 0x12345678)
    assert guest.ask("readl", BAR + 4) == 0xEDCBA987
    guest.ask("writel", BAR + 8, 10)
    while guest.ask("readl", BAR + 0x20) & 1:
        pass
    assert guest.ask("readl", BAR + 8) == 3628800
