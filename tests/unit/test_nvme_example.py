"""The NVMe example's driver and program against a small controller; tests/kernel tries them with QEMU's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ioas
from ioas.api import Device, Ioas, SoftHost
from tests.support.nvme_model import BLOCK, BLOCKS, LARGEST, Nvme

BDF = "0000:01:00.0"
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def driver() -> Iterator[ModuleType]:
    """The module `nvme_driver`, which stands beside the program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import nvme_driver  # type: ignore[import-not-found]

        yield nvme_driver


@pytest.fixture
def program(driver: ModuleType) -> ModuleType:
    """The module `nvme`."""
    import nvme  # type: ignore[import-not-found]

    return nvme


@contextmanager
def room(model: Nvme) -> Iterator[tuple[Device, Ioas]]:
    """A machine with that controller; afterwards no DMA may have been stopped, and nothing may be left mapped."""
    with SoftHost(devices=[model]) as host:
        with host.iommufd() as iommufd, host.device(BDF) as device:
            device.bind(iommufd)
            space = iommufd.ioas()
            device.attach(space)
            yield device, space
            with pytest.raises(ioas.errors.NotFound):
                space.unmap(0, 1 << 47)
            assert not device.bus_master
        assert host.faults() == []


@pytest.fixture
def model() -> Nvme:
    return Nvme()


@pytest.fixture
def disk(driver: ModuleType, model: Nvme) -> Iterator[Any]:
    """The opened disk, with its space as `disk.space`."""
    with room(model) as (device, space), driver.opened(device, space, True) as disk:
        disk.space = space
        yield disk


def test_pages_of_memory_are_addressed_from_any_offset(driver: ModuleType) -> None:
    pages = [0x7000, 0x3000, 0x9000]
    assert driver.addresses(pages, 0, 1) == [0x7000]
    assert driver.addresses(pages, 512, 4096 - 512) == [0x7200]
    assert driver.addresses(pages, 512, 4096) == [0x7200, 0x3000]
    assert driver.addresses(pages, 4096, 8192) == [0x3000, 0x9000]
    assert driver.addresses(pages, 4095, 4098) == [0x7FFF, 0x3000, 0x9000]


def test_work_is_cut_into_commands_of_repeating_sizes(driver: ModuleType) -> None:
    assert list(driver.cut(10, [1, 4])) == [(0, 1), (1, 4), (5, 1), (6, 4)]
    assert list(driver.cut(3, [8])) == [(0, 3)]
    assert list(driver.cut(0, [8])) == []


def test_the_disk_says_what_it_is(disk: Any) -> None:
    assert (disk.model, disk.serial, disk.firmware, disk.version) == ("model", "serial", "0.1", "1.4")
    assert (disk.blocks, disk.block_size, disk.max_blocks) == (BLOCKS, BLOCK, LARGEST * 8)


@pytest.mark.parametrize("interrupts", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_written_is_read(
    driver: ModuleType, program: ModuleType, model: Nvme, interrupts: bool, backwards: bool
) -> None:
    model.backwards = backwards
    with room(model) as (device, space), driver.opened(device, space, interrupts) as disk:
        program.check(disk, space, 1000, True)
        content = bytes(model.disk)
        assert len(set(content[: 1000 * BLOCK])) == 256
        assert content[1000 * BLOCK :] == bytes(1048 * BLOCK)
        program.check(disk, space, BLOCKS, False)
        assert bytes(model.disk) == content
    reads = [pages for opcode, pages in model.log if opcode == driver.READ]
    assert {1, 2, 3, 6, LARGEST} <= set(reads)  # PRP 1 alone, both, and lists
    assert len(reads) > 5 * driver.ENTRIES  # the queues wrapped around, and the phase turned, several times
    assert driver.FLUSH in dict(model.log)


def test_data_that_came_back_changed_is_noticed(
    driver: ModuleType, program: ModuleType, disk: Any, model: Nvme
) -> None:
    class Forgetful(bytearray):
        def __setitem__(self, key: Any, value: Any) -> None:
            if key.start != 8 * BLOCK:
                super().__setitem__(key, value)

    model.disk = Forgetful(BLOCK * BLOCKS)
    with pytest.raises(driver.NvmeError, match="block 8 differs"):
        program.check(disk, disk.space, 100, True)


@pytest.mark.parametrize(("status", "kind"), [(0x80, "CommandError"), (0x281, "MediaError"), (0x7FF, "CommandError")])
def test_a_failed_command_is_an_error_that_says_which(
    driver: ModuleType, disk: Any, model: Nvme, status: int, kind: str
) -> None:
    with disk.space.alloc(64 * BLOCK, writable=True) as buffer:
        model.failing[driver.READ] = status
        with pytest.raises(driver.CommandError) as caught:
            disk.transfer(driver.READ, 0, 64, buffer, [1])
        assert type(caught.value).__name__ == kind
        assert (caught.value.opcode, caught.value.type << 8 | caught.value.code) == (driver.READ, status)
        model.failing.clear()
        assert disk.transfer(driver.READ, 0, 64, buffer, [1]) == 64  # nothing of the failure is left in the queue


def test_blocks_that_the_disk_lacks_are_refused_by_it_and_by_the_program(
    driver: ModuleType, program: ModuleType, disk: Any
) -> None:
    with (
        disk.space.alloc(BLOCK, writable=True) as buffer,
        pytest.raises(driver.CommandError, match="block out of range"),
    ):
        disk.transfer(driver.READ, BLOCKS, 1, buffer, [1])
    for blocks in (0, -1, BLOCKS + 1):
        with pytest.raises(driver.NvmeError, match=f"{blocks} blocks cannot be tested: the disk has {BLOCKS}"):
            program.check(disk, disk.space, blocks, False)


@pytest.mark.parametrize("interrupts", [False, True])
def test_a_command_that_never_ends_is_given_up(
    driver: ModuleType, model: Nvme, monkeypatch: pytest.MonkeyPatch, interrupts: bool
) -> None:
    def read(device: Device, space: Ioas) -> None:
        with driver.opened(device, space, interrupts) as disk, space.alloc(4096, writable=True) as buffer:
            monkeypatch.setattr(driver, "TIMEOUT", 0.05)
            disk.transfer(driver.READ, 0, 3, buffer, [1])

    model.silent.add(driver.READ)
    with room(model) as (device, space):
        with pytest.raises(driver.NvmeTimeoutError, match="3 commands have not completed"):
            read(device, space)
        assert (model.cc & 1, model.csts) == (0, 0)  # it was disabled all the same


def test_a_completion_without_its_interrupt_is_not_found_by_looking(
    driver: ModuleType, model: Nvme, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.mute, model.delay = True, 0.01
    monkeypatch.setattr(driver, "TIMEOUT", 0.05)
    with (
        room(model) as (device, space),
        pytest.raises(driver.NvmeTimeoutError, match=r"1 commands have not completed in 0\.05 s"),
        driver.opened(device, space, True),
    ):
        pytest.fail("it was identified")


def test_a_controller_that_does_not_start_is_given_up(driver: ModuleType, model: Nvme) -> None:
    model.stuck = True
    with (
        room(model) as (device, space),
        pytest.raises(driver.NvmeTimeoutError, match="did not start in 1"),
        driver.opened(device, space, False),
    ):
        pytest.fail("it has started")


def test_another_device_is_left_alone(driver: ModuleType) -> None:
    with SoftHost() as host, host.iommufd() as iommufd, host.device(BDF) as device:
        device.bind(iommufd)
        with (
            pytest.raises(driver.NvmeError, match=r"0000:01:00\.0 is no NVMe controller"),
            driver.opened(device, iommufd.ioas(), False),
        ):
            pytest.fail("edu was taken for a disk")


def test_afterwards_the_controller_is_shut_down_and_off(driver: ModuleType, model: Nvme) -> None:
    with room(model) as (device, space):
        with driver.opened(device, space, False):
            assert (model.cc & 1, model.csts) == (1, 1)
        assert [opcode for opcode, _ in model.log][-2:] == [driver.DELETE_SQ, driver.DELETE_CQ]
        assert (model.cc >> 14 & 3, model.cc & 1, model.csts & 1) == (1, 0, 0)
