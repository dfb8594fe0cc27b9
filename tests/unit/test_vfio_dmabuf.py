"""BARs as dma-bufs: other devices reach them while their own is awake, open and not reset (vfio_pci_dmabuf.c, 7.3)."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from errno import EFAULT, EINVAL, ENODEV, ENOMEM, EOPNOTSUPP, EOVERFLOW
from typing import ClassVar

import pytest

from ioas.soft.host import models
from ioas.soft.pci import Acs, Capability
from ioas.soft.vfio.bar_memory import BarMemory
from ioas.uapi import iommufd, vfio
from tests.support.models import Rich
from tests.support.vfio_client import CONFIG, Client, bound, refused

PAGE = 4096
BAR_PAGES = 4
IOVA = 0x10_0000
GET, SET = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET
DMA_BUF = vfio.VFIO_DEVICE_FEATURE_DMA_BUF
MEMORY_ON, MEMORY_OFF = struct.pack("<H", 6), struct.pack("<H", 4)


class Peers:
    """An edu, attached to an IOAS, and a device with memory in its BAR, both bound to one iommufd."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.edu = client.host.functions["0000:01:00.0"]
        rich = client.host.functions["0000:02:00.0"]
        assert isinstance(rich, Rich)
        self.rich = rich
        self.open_peer()
        self.space = client.ioas()
        client.attach(self.space)

    def open_peer(self) -> None:
        self.peer = self.client.open("/dev/vfio/devices/vfio1")
        self.client.bind(self.peer)
        self.set_config(4, MEMORY_ON)

    def export(
        self,
        ranges: Sequence[tuple[int, int]] = ((0, BAR_PAGES * PAGE),),
        index: int = 0,
        flags: int = 0,
        count: int | None = None,
    ) -> int:
        tail = b"".join(struct.pack("QQ", *each) for each in ranges)
        number = len(ranges) if count is None else count
        head = struct.pack("IIIIII", 24 + len(tail), DMA_BUF | GET, index, os.O_CLOEXEC, flags, number)
        return self.peer.ioctl(self.client.caller, vfio.VFIO_DEVICE_FEATURE, bytearray(head + tail))

    def map(self, fd: int, start: int = 0, length: int = BAR_PAGES * PAGE, iova: int = IOVA) -> None:
        fields = {"flags": 7, "ioas_id": self.space, "fd": fd, "start": start, "length": length, "iova": iova}
        request = iommufd.iommu_ioas_map_file(size=40, **fields)
        self.client.call(iommufd.IOMMU_IOAS_MAP_FILE, request, self.client.iommufd)

    def set_feature(self, feature: int) -> None:
        self.peer.ioctl(self.client.caller, vfio.VFIO_DEVICE_FEATURE, bytearray(struct.pack("II", 8, feature | SET)))

    def set_config(self, offset: int, data: bytes) -> None:
        self.peer.write(self.client.caller, data, CONFIG + offset)


@pytest.fixture
def peers() -> Iterator[Peers]:
    with bound("edu", Rich()) as client:
        peers = Peers(client)
        yield peers
        peers.peer.close()


def test_dma_of_one_device_reaches_the_bar_of_another(peers: Peers) -> None:
    peers.map(peers.export())
    data = bytes(range(256)) * 3
    assert peers.edu.dma.write(IOVA + 0xFF5, data)
    assert peers.rich.memory_bytes[0xFF5 : 0xFF5 + len(data)] == data
    assert peers.edu.dma.read(IOVA + 0xFF5, len(data)) == data


def test_registers_are_reached_in_aligned_pieces(peers: Peers) -> None:
    peers.map(peers.export())
    peers.rich.accesses.clear()
    peers.edu.dma.write(IOVA + 2, bytes(2 + 4 + 8 + 16 + 32 + 64 + 1))
    assert [(offset, width) for _, _, offset, width in peers.rich.accesses] == [
        (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (128, 1),
    ]  # fmt: skip


def test_a_slice_begins_where_it_was_cut_and_ends_with_its_length(peers: Peers) -> None:
    fd = peers.export([(PAGE, 2 * PAGE)])
    peers.map(fd, PAGE, PAGE)
    peers.edu.dma.write(IOVA, b"here")
    assert peers.rich.memory_bytes[2 * PAGE : 2 * PAGE + 4] == b"here"
    with refused(EINVAL):
        peers.map(fd, 0, 3 * PAGE, IOVA << 1)


def test_the_mapping_outlives_the_descriptor_and_counts_against_nobody(peers: Peers) -> None:
    fd = peers.export()
    peers.map(fd)
    os.close(fd)
    assert peers.client.caller.memory.pinned_pages == 0
    assert peers.edu.dma.write(IOVA, b"x")
    peers.set_config(4, MEMORY_OFF)
    assert not peers.edu.dma.write(IOVA, b"x")


def low_power(peers: Peers) -> None:
    peers.set_feature(vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)


def normal_power(peers: Peers) -> None:
    peers.set_feature(vfio.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)


def power_state(state: int) -> Callable[[Peers], None]:
    return lambda peers: peers.set_config((peers.rich.config.find(1) or 0) + 4, struct.pack("<H", state))


def reset(peers: Peers) -> None:
    peers.peer.ioctl(peers.client.caller, vfio.VFIO_DEVICE_RESET, 0)


def hot_reset(peers: Peers) -> None:
    peers.client.call(vfio.VFIO_DEVICE_PCI_HOT_RESET, vfio.vfio_pci_hot_reset(argsz=12), peers.peer)


def function_level_reset(peers: Peers) -> None:
    express = peers.rich.config.find(0x10) or 0
    control = int.from_bytes(peers.client.read(CONFIG + express + 8, 2, peers.peer), "little")
    peers.set_config(express + 8, struct.pack("<H", control | 0x8000))


def reopened(peers: Peers) -> None:
    peers.peer.close()
    peers.open_peer()


AWAY_AND_BACK = {
    "memory decoding": (lambda peers: peers.set_config(4, MEMORY_OFF), lambda peers: peers.set_config(4, MEMORY_ON)),
    "D3hot": (power_state(3), power_state(0)),
    "low power": (low_power, normal_power),
}


@pytest.mark.parametrize("how", AWAY_AND_BACK)
def test_while_the_device_cannot_answer_dma_ends_and_mapping_is_enodev(peers: Peers, how: str) -> None:
    away, back = AWAY_AND_BACK[how]
    fd = peers.export()
    peers.map(fd)
    away(peers)
    assert not peers.edu.dma.write(IOVA, b"x")
    assert peers.client.host.system.faults[-1].reason == "not mapped"
    with refused(ENODEV):
        peers.map(fd, iova=IOVA << 1)
    back(peers)
    assert not peers.edu.dma.write(IOVA, b"x"), "what was taken back stays so"
    peers.map(fd, iova=IOVA << 1)
    assert peers.edu.dma.write(IOVA << 1, b"y")
    assert peers.rich.memory_bytes[0:1] == b"y"


@pytest.mark.parametrize("again", [reset, hot_reset, function_level_reset])
def test_a_reset_takes_mappings_back_for_good_and_lets_the_buffer_be_mapped_anew(
    peers: Peers, again: Callable[[Peers], None]
) -> None:
    fd = peers.export()
    peers.map(fd)
    again(peers)
    assert not peers.edu.dma.write(IOVA, b"x")
    peers.map(fd, iova=IOVA << 1)
    assert peers.edu.dma.write(IOVA << 1, b"y")


def test_closing_the_device_takes_its_buffers_back_for_good(peers: Peers) -> None:
    fd = peers.export()
    peers.map(fd)
    reopened(peers)
    assert not peers.edu.dma.write(IOVA, b"x")
    with refused(ENODEV):
        peers.map(fd, iova=IOVA << 1)
    peers.map(peers.export(), iova=IOVA << 1)
    assert peers.edu.dma.write(IOVA << 1, b"y")


def test_other_writes_to_configuration_space_leave_mappings_alone(peers: Peers) -> None:
    peers.map(peers.export())
    for offset, data in ((4, struct.pack("<H", 7)), (0x0C, b"\x10"), (0x10, bytes(4))):
        peers.set_config(offset, data)
    assert peers.edu.dma.write(IOVA, b"x")


def test_what_is_exported_while_memory_decoding_is_off_cannot_be_mapped_before_it_is_on(peers: Peers) -> None:
    peers.set_config(4, MEMORY_OFF)
    fd = peers.export()
    with refused(ENODEV):
        peers.map(fd)
    peers.set_config(4, MEMORY_ON)
    peers.map(fd)
    assert peers.edu.dma.write(IOVA, b"x")


class Isolated(Rich):
    """Two of them in one slot are in groups of their own."""

    capabilities: ClassVar[tuple[Capability, ...]] = (*Rich.capabilities, Acs())


def test_a_hot_reset_that_a_later_function_refuses_takes_mappings_back_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """7.3 takes back function by function, and finds out on the way that one belongs to somebody else."""
    monkeypatch.setitem(models._BUILT_IN, "isolated", f"{__name__}:Isolated")
    with bound("edu", "isolated,addr=0000:02:00.0", "isolated,addr=0000:02:00.1") as client:
        peers = Peers(client)
        other = client.caller.install(client.open("/dev/iommu"))
        sibling = client.open("/dev/vfio/devices/vfio2")
        client.bind(sibling, other)
        peers.map(peers.export())
        with refused(EINVAL):
            hot_reset(peers)
        assert not peers.edu.dma.write(IOVA, b"x")
        sibling.close()
        os.close(other)
        peers.peer.close()


@pytest.mark.parametrize(
    ("ranges", "number"),
    [
        ([], EINVAL),
        ([(0, 0)], EINVAL),
        ([(1, PAGE)], EINVAL),
        ([(0, PAGE + 1)], EINVAL),
        ([(0, (BAR_PAGES + 1) * PAGE)], EINVAL),
        ([(BAR_PAGES * PAGE, PAGE)], EINVAL),
        ([(0, PAGE), (PAGE, 0)], EINVAL),
        ([(0, (1 << 64) - PAGE), (0, PAGE)], EINVAL),
        ([(0, 1 << 63)], EINVAL),
        ([((1 << 64) - PAGE, PAGE)], EOVERFLOW),
        ([(PAGE, (1 << 63) - PAGE), (0, 1 << 62)], EINVAL),
    ],
)
def test_ranges_are_whole_pages_of_the_bar(peers: Peers, ranges: list[tuple[int, int]], number: int) -> None:
    with refused(number):
        peers.export(ranges)


def test_only_memory_bars_of_the_device_are_exported(peers: Peers) -> None:
    for index in (1, 5, 6, 7, 8, 99):
        with refused(ENODEV):
            peers.export(index=index)
    with refused(EINVAL):
        peers.export([(0, PAGE)], index=2)
    with refused(EINVAL):
        peers.export(flags=1)


def test_a_list_of_ranges_is_copied_whole_or_not_at_all(peers: Peers) -> None:
    with refused(EFAULT):
        peers.export(count=2)
    with refused(ENOMEM):
        peers.export(count=1 << 20)


def test_of_several_ranges_a_buffer_is_made_which_iommufd_does_not_map(peers: Peers) -> None:
    fd = peers.export([(0, PAGE), (2 * PAGE, PAGE)])
    with refused(EOPNOTSUPP):
        peers.map(fd, 0, PAGE)
    os.close(fd)


def test_a_bar_has_one_set_of_frames_however_often_it_is_exported(peers: Peers) -> None:
    peers.map(peers.export())
    before = peers.client.host.system.memory.held_frames
    peers.map(peers.export([(PAGE, PAGE)]), 0, PAGE, IOVA << 1)
    domain = peers.edu.requester.domain
    assert domain is not None
    assert domain.phys(IOVA << 1) == domain.phys(IOVA + PAGE)
    assert peers.client.host.system.memory.held_frames == before + 1


def test_a_device_that_does_not_answer_ends_the_transfer_on_the_bus(peers: Peers) -> None:
    """Two devices that reach each other at once would wait for ever: a completion timeout ends it."""
    memory = BarMemory(peers.rich, peers.rich.bar(0), patience=0.01)
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with peers.rich.lock:
            holding.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    holding.wait()
    with refused(EFAULT):
        memory.read(0, 4)
    done.set()
    other.join()
    assert memory.read(0, 4) == bytes(4)


def test_taking_back_waits_for_the_transfer_that_is_under_way(peers: Peers) -> None:
    peers.map(peers.export())
    entered, go_on, events = threading.Event(), threading.Event(), []

    def slow(bar: int, offset: int, data: bytes) -> bool:
        entered.set()
        go_on.wait()
        events.append("written")
        return True

    def revoke() -> None:
        peers.set_config(4, MEMORY_OFF)
        events.append("revoked")

    peers.rich.write_window = slow  # type: ignore[method-assign]
    transfer = threading.Thread(target=peers.edu.dma.write, args=(IOVA, b"x"))
    transfer.start()
    entered.wait()
    taking_back = threading.Thread(target=revoke)
    taking_back.start()
    taking_back.join(0.05)
    go_on.set()
    for thread in (transfer, taking_back):
        thread.join()
    assert events == ["written", "revoked"]
