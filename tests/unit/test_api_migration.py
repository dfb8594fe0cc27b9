"""Migration by the Python API, between two software machines."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ioas.api import Device, MigrationFlag, MigrationState, SoftHost
from ioas.devices import edu
from ioas.errors import InvalidArgument, NoDevice, NoMessage, UnknownRequest, UsageError

BDF = "0000:01:00.0"
IOVA = 0x100000
LIVENESS = 0x04
TIMEOUT = 60


class Side(NamedTuple):
    """A machine with edu, and memory at `IOVA`."""

    device: Device
    memory: memoryview

    def start(self, source: int, destination: int, command: int) -> None:
        registers = self.device.bar(0)
        for register, value in ((0x80, source), (0x88, destination), (0x90, 4), (0x98, command)):
            registers.write64(register, value)


@pytest.fixture
def here() -> Iterator[Side]:
    yield from side()


@pytest.fixture
def there() -> Iterator[Side]:
    yield from side()


def side() -> Iterator[Side]:
    with (
        SoftHost(["edu,migration=on"]) as host,
        host.iommufd() as iommufd,
        host.device(BDF) as device,
    ):
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        device.bus_master = True
        with space.alloc(4096, writable=True, iova=IOVA) as memory:
            yield Side(device, memory.view)


def test_a_dma_that_was_begun_here_ends_there(here: Side, there: Side) -> None:
    here.memory[:4] = b"data"
    here.start(IOVA, edu.BUFFER, edu.DMA_START)
    while here.device.bar(0).read64(0x98) & edu.DMA_START:
        pass
    here.start(edu.BUFFER, IOVA + 8, edu.DMA_START | edu.DMA_TO_MEMORY | edu.DMA_INTERRUPT)
    state = here.device.migration.save()
    assert here.device.migration.state is MigrationState.STOP
    assert bytes(here.memory[8:12]) == bytes(4)
    there.device.migration.load(state)
    with there.device.irq("msi") as interrupt:
        there.device.migration.go(MigrationState.RUNNING)
        assert interrupt.wait(TIMEOUT) == 1
    assert bytes(there.memory[8:12]) == b"data"


def test_what_a_device_can_is_told(here: Side) -> None:
    assert here.device.migration.supported == MigrationFlag.STOP_COPY | MigrationFlag.P2P | MigrationFlag.PRE_COPY
    assert here.device.migration.state is MigrationState.RUNNING
    assert here.device.migration.data_size == len(here.device.migration.save())


def test_a_device_that_cannot_be_migrated_says_so() -> None:
    with SoftHost(["edu"]) as host, host.iommufd() as iommufd, host.device(BDF) as device:
        device.bind(iommufd)
        assert device.migration.supported == MigrationFlag(0)
        with pytest.raises(UnknownRequest):
            device.migration.go(MigrationState.STOP)


def test_a_stream_is_polled_while_the_device_runs(here: Side, there: Side) -> None:
    migration = here.device.migration
    stream = migration.go(MigrationState.PRE_COPY)
    assert stream is not None
    with stream:
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        initial, dirty = stream.precopy_info()
        assert poll.poll(0)
        first = stream.read(initial)
        assert (len(first), dirty) == (initial, 0)
        with pytest.raises(NoMessage):
            stream.read_all()
        here.device.bar(0).write32(LIVENESS, 0)
        _, dirty = stream.precopy_info()
        assert dirty > 0
        assert migration.go(MigrationState.STOP_COPY) is None
        rest = stream.read_all()
    there.device.migration.load(first + rest)
    there.device.migration.go(MigrationState.RUNNING)
    assert there.device.bar(0).read32(LIVENESS) == 0xFFFFFFFF


def test_a_transfer_that_is_under_way_is_not_begun_again(here: Side) -> None:
    migration = here.device.migration
    stream = migration.go(MigrationState.STOP_COPY)
    assert stream is not None
    with pytest.raises(UsageError):
        migration.save()
    migration.go(MigrationState.STOP)
    with pytest.raises(NoDevice):
        stream.read(1)
    stream.close()
    incoming = migration.go(MigrationState.RESUMING)
    assert incoming is not None
    with pytest.raises(UsageError):
        migration.load(b"")
    incoming.close()
    here.device.reset()
    assert migration.state is MigrationState.RUNNING


def test_what_is_no_state_is_refused(here: Side) -> None:
    with pytest.raises(InvalidArgument):
        here.device.migration.load(b"nothing of the kind")
    here.device.reset()
    with pytest.raises(InvalidArgument):
        here.device.migration.load(b"")
    here.device.reset()


def test_a_way_that_does_not_exist_is_refused(here: Side) -> None:
    stream = here.device.migration.go(MigrationState.STOP_COPY)
    assert stream is not None
    with stream, pytest.raises(InvalidArgument, match="STOP_COPY does not lead to PRE_COPY"):
        here.device.migration.go(MigrationState.PRE_COPY)
