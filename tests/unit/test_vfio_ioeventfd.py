"""VFIO_DEVICE_IOEVENTFD (vfio_pci_ioeventfd, 7.3), and the thread that waits on eventfds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from errno import EBADF, EEXIST, EINVAL, ENODEV, ENOSPC

import pytest

from ioas.host.local_files import LocalEventFd
from ioas.soft.vfio import Watcher
from ioas.uapi import vfio
from tests.support.models import Rich
from tests.support.vfio_client import CONFIG, Client, bound, counter, eventfds, refused


@pytest.fixture
def rich() -> Rich:
    return Rich()


@pytest.fixture
def client(rich: Rich) -> Iterator[Client]:
    with bound(rich) as client:
        yield client


@pytest.fixture
def event() -> Iterator[int]:
    (fd,) = eventfds(1)
    yield fd
    os.close(fd)


def ioeventfd(client: Client, fd: int, offset: int = 0x20, data: int = 1, flags: int = 4, argsz: int = 40) -> None:
    request = vfio.vfio_device_ioeventfd(argsz=argsz, flags=flags, offset=offset, data=data, fd=fd)
    client.call(vfio.VFIO_DEVICE_IOEVENTFD, request)


class Written(Rich):
    """Tells when its BAR 0 has been written."""

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Semaphore(0)

    def write_window(self, bar: int, offset: int, data: bytes) -> bool:
        result = super().write_window(bar, offset, data)
        self.done.release()
        return result


def test_one_signal_carries_out_every_write_on_the_eventfd(event: int) -> None:
    model = Written()
    with bound(model) as client:
        for offset in (0x20, 0x24, 0x28):
            ioeventfd(client, event, offset, data=offset)
        ioeventfd(client, -1, 0x20, data=0x20)
        os.eventfd_write(event, 1)
        assert model.done.acquire(timeout=5)
        assert model.done.acquire(timeout=5)
        assert client.read(0x20, 12) == bytes(4) + b"\x24\0\0\0\x28\0\0\0"
        assert counter(event) == 0


def test_the_newest_write_on_an_eventfd_comes_first(event: int) -> None:
    model = Written()
    with bound(model) as client:
        for data in (1, 2, 3):
            ioeventfd(client, event, data=data)
        os.eventfd_write(event, 1)
        for _ in range(3):
            assert model.done.acquire(timeout=5)
        assert client.bar(0x20) == 1


def test_an_eventfd_that_was_signalled_before_counts_and_is_not_read(event: int) -> None:
    model = Written()
    with bound(model) as client:
        os.eventfd_write(event, 5)
        for offset in (0x20, 0x24):
            ioeventfd(client, event, offset)
            assert client.bar(offset) == 1
        assert counter(event) == 5
        client.set_bar(0x20, 0)
        os.eventfd_write(event, 1)
        for _ in range(5):  # two when they began, one by hand, two now
            assert model.done.acquire(timeout=5)
        assert client.bar(0x20) == 1
        assert counter(event) == 0


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_signal_writes_the_data(event: int, width: int) -> None:
    model = Written()
    with bound(model) as client:
        ioeventfd(client, event, data=0x1122334455667788, flags=width)
        os.eventfd_write(event, 3)
        assert model.done.acquire(timeout=5)
        assert model.memory_bytes[0x20:0x28] == (0x1122334455667788).to_bytes(8, "little")[:width].ljust(8, b"\0")
        assert counter(event) == 0
        ioeventfd(client, -1, data=0x1122334455667788, flags=width)
        os.eventfd_write(event, 3)
        assert counter(event) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"argsz": 27},
        {"flags": 0},
        {"flags": 5},
        {"flags": 0x10},
        {"flags": 0x14},
        {"fd": -2},
        {"offset": CONFIG},
        {"offset": 1 << 40},
        {"offset": 0x4000 - 2},
        {"offset": (4 << 40) + 0x100},
        {"offset": (4 << 40) + 0x17C},
    ],
)
def test_a_wrong_size_or_place_is_einval(client: Client, event: int, fields: dict[str, int]) -> None:
    with refused(EINVAL):
        ioeventfd(client, **({"fd": event} | fields))


def test_beside_the_msix_table_is_no_wrong_place(client: Client, event: int) -> None:
    ioeventfd(client, event, (4 << 40) + 0xFC)
    ioeventfd(client, event, (4 << 40) + 0x180)


def test_the_same_write_twice_is_eexist_and_ending_it_twice_is_enodev(client: Client, event: int) -> None:
    ioeventfd(client, event)
    with refused(EEXIST):
        ioeventfd(client, event)
    ioeventfd(client, event, data=2)
    ioeventfd(client, -1)
    with refused(ENODEV):
        ioeventfd(client, -1)


def test_a_descriptor_that_is_no_eventfd_is_refused(client: Client) -> None:
    with refused(EBADF):
        ioeventfd(client, 99999)
    with refused(EINVAL):
        ioeventfd(client, client.iommu_fd)


def test_a_device_has_at_most_1000(client: Client, event: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ioas.soft.vfio.ioeventfd.MOST", 3)
    for data in range(3):
        ioeventfd(client, event, data=data)
    with refused(ENOSPC):
        ioeventfd(client, event, data=3)


def test_nothing_is_written_while_decoding_is_off(event: int) -> None:
    model = Written()
    with bound(model) as client:
        ioeventfd(client, event)
        client.set_config(4, 2, 4)
        os.eventfd_write(event, 1)
        assert not model.done.acquire(timeout=0.05)


def test_closing_the_file_drops_them(client: Client, event: int) -> None:
    ioeventfd(client, event)
    assert client.host.leaks()["eventfds"] == 1
    client.device.close()
    assert "eventfds" not in client.host.leaks()


def test_closing_a_watch_waits_for_its_action() -> None:
    watcher = Watcher()
    fd = os.eventfd(0)
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def action() -> None:
        entered.set()
        leave.wait(5)
        left.set()

    watch = watcher.watch(LocalEventFd(fd), action)
    os.eventfd_write(fd, 1)
    assert entered.wait(5)
    threading.Timer(0.05, leave.set).start()
    watch.close()
    assert left.is_set()
    watch.close()
    watcher.close()
    watcher.close()
    os.close(fd)


def test_an_action_may_close_its_own_watch() -> None:
    watcher = Watcher()
    fd = os.eventfd(0)
    done = threading.Event()

    def action() -> None:
        watch.close()
        done.set()

    watch = watcher.watch(LocalEventFd(fd), action)
    os.eventfd_write(fd, 1)
    assert done.wait(5)
    assert watcher.count == 0
    watcher.close()
    os.close(fd)
