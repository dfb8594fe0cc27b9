"""Which BARs are polled, and which are trapped although polling was asked for."""

from __future__ import annotations

import os

import pytest

from ioas.run.mmio.cells import MOST
from ioas.run.mmio.poll import Poller
from ioas.soft.host import SoftHost
from ioas.soft.pci import Bar, Function
from tests.support.caller import FakeCaller


def function(registers: int, *, doorbell: bool = True) -> Function:
    """A device with so many registers, the first of which is a doorbell."""
    bar = Bar(0, 1 << 16)
    names = {f"r{number}": bar.register(4 * number, doorbell=doorbell and not number) for number in range(registers)}
    made: Function = type("Many", (Function,), {"model": "many", "vendor_id": 1, "mmio": bar, **names})()
    return made


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (function(MOST), "is polled (doorbells: r0)"),
        (function(MOST + 1), f"is trapped: it has more registers than the {MOST} that can be polled"),
        (function(1, doorbell=False), ""),
    ],
    ids=["as many as can be", "one too many", "no doorbell"],
)
def test_a_bar_is_polled_where_it_has_a_doorbell_and_not_too_many_registers(device: Function, said: str) -> None:
    heard: list[str] = []
    failures: list[Exception] = []
    poller = Poller(heard.append, failures.append)
    try:
        with SoftHost([device]) as host:
            file = host.open(FakeCaller(), "/dev/vfio/devices/vfio0", os.O_RDWR)
            for _ in range(2):
                assert (poller.image(file, 0) is not None) == ("polled (" in said)
            assert all(said in line for line in heard)
            assert bool(heard) == bool(said)
            poller.forget(file)
            file.close()
    finally:
        poller.close()
    assert not failures
