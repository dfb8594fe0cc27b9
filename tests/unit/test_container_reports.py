"""What users of real systems have reported of groups and containers: what is refused, and that the refusal says why.

The kernel answers each of these with a bare errno. Here the reason names what stood in the way.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioas.host import PAGE_SIZE, Capability
from ioas.uapi import iommufd, vfio
from tests.support.group_client import BDF, GroupClient, program
from tests.support.ram import Ram
from tests.support.vfio_client import refused

IOVA = 0x10_0000
HUGE = 2 << 20


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program() as client:
        yield client


def test_the_65536th_mapping_names_the_limit(client: GroupClient) -> None:
    """Many small buffers, each mapped by itself, and then ENOSPC, which sounds like a full disk."""
    container, vaddr = client.container(), client.caller.memory.map(1)
    for index in range(65535):
        client.map(container, vaddr, PAGE_SIZE, IOVA + index * PAGE_SIZE)
    assert client.available(container) == 0
    with refused(errno.ENOSPC) as info:
        client.map(container, vaddr, PAGE_SIZE, 0)
    assert "65535 mappings" in info.value.refusal.reason
    assert str(info.value.refusal.culprit) == "limit dma_entry_limit=65535"
    client.unmap(container, IOVA, PAGE_SIZE)
    client.map(container, vaddr, PAGE_SIZE, 0)


def test_the_limit_is_a_parameter_of_the_module(client: GroupClient) -> None:
    """What those who hit it are told to do: it counts for containers that are made afterwards."""
    former, vaddr = client.container(), client.caller.memory.map(1)
    parameter = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    client.host.tree.write(parameter, b"0x2\n")
    assert client.host.tree.read(parameter) == b"2\n"
    assert client.available(former) == 65535
    client.close()
    container = client.container()
    for index in range(2):
        client.map(container, vaddr, PAGE_SIZE, IOVA + index * PAGE_SIZE)
    with refused(errno.ENOSPC) as info:
        client.map(container, vaddr, PAGE_SIZE, 0)
    assert str(info.value.refusal.culprit) == "limit dma_entry_limit=2"


@pytest.mark.parametrize(
    ("text", "number"), [(b"many", errno.EINVAL), (b"-1", errno.EINVAL), (b"4294967296", errno.ERANGE)]
)
def test_a_limit_that_is_no_number_is_refused(client: GroupClient, text: bytes, number: int) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        client.host.tree.write("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", text)


def test_huge_pages_can_be_turned_off(client: GroupClient) -> None:
    client.host.tree.write("/sys/module/vfio_iommu_type1/parameters/disable_hugepages", b"1")
    container, vaddr = client.container(), client.caller.memory.map(512, ram=Ram(512, order=9))
    before = client.host.system.memory.table_frames
    client.map(container, vaddr, HUGE, HUGE)
    small = client.host.system.memory.table_frames - before
    client.host.tree.write("/sys/module/vfio_iommu_type1/parameters/disable_hugepages", b"N")
    client.map(container, vaddr, HUGE, 2 * HUGE)
    assert client.host.system.memory.table_frames - before == small, "no further table for the large page"


def test_a_map_before_set_iommu_says_what_comes_first(client: GroupClient) -> None:
    container = client.open("/dev/vfio/vfio")
    client.set_container(client.open(client.group_of()), container)
    with refused(errno.EINVAL) as info:
        client.map(container, client.caller.memory.map(1), PAGE_SIZE, IOVA)
    assert "VFIO_SET_IOMMU" in info.value.refusal.reason


def test_a_group_that_is_busy_names_the_device_whose_cdev_is_bound(client: GroupClient) -> None:
    """Another program has the device by /dev/vfio/devices, which nobody looks for in /dev/vfio/N."""
    client.bind(client.open("/dev/vfio/devices/vfio0"), client.open("/dev/iommu"))
    with refused(errno.EBUSY) as info:
        client.open(client.group_of())
    assert "cdev" in info.value.refusal.reason
    assert str(info.value.refusal.culprit) == f"device {BDF}"


def test_a_siblings_driver_that_comes_late_does_not_get_it(tmp_path: Path) -> None:
    """The sound function of a card is bound by udev after the program has the group: the kernel says EBUSY there."""
    machine = tmp_path / "card.toml"
    card = '[[device]]\nmodel = "edu"\naddr = "0000:01:00.0"\n[[device]]\nmodel = "edu"\naddr = "0000:01:00.1"\n'
    machine.write_text(f'{card}driver = "snd_hda_intel"\n')
    driver = "/sys/bus/pci/drivers/snd_hda_intel"
    with program(machine=str(machine)) as client:
        group, container = client.open(client.group_of()), client.open("/dev/vfio/vfio")
        with refused(errno.EPERM) as info:
            client.set_container(group, container)
        assert "snd_hda_intel has 0000:01:00.1" in info.value.refusal.reason
        client.host.tree.write(f"{driver}/unbind", b"0000:01:00.1\n")
        client.set_container(group, container)
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            client.host.tree.write(f"{driver}/bind", b"0000:01:00.1\n")
        client.unset_container(group)
        client.host.tree.write(f"{driver}/bind", b"0000:01:00.1\n")
        assert client.status(group) == 0


@pytest.mark.parametrize("kind", [vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU])
def test_huge_pages_at_an_iova_that_is_not_aligned_are_mapped_by_small_ones(client: GroupClient, kind: int) -> None:
    """It works, and is slow: each 2 MiB page takes 512 entries; aligned it takes one."""
    container = client.container(kind)
    caller = client.caller
    vaddr = caller.memory.map(512, ram=Ram(512, order=9))
    domain = client.host.functions[BDF].requester.domain
    tables = client.host.system.memory
    before = tables.table_frames
    client.map(container, vaddr, HUGE, HUGE)
    aligned = tables.table_frames - before
    client.map(container, vaddr, HUGE, 2 * HUGE + PAGE_SIZE)
    assert tables.table_frames - before > aligned, "a further level, for the small pages"
    assert domain is not None
    assert domain.phys(2 * HUGE + PAGE_SIZE) == domain.phys(HUGE)


def test_a_part_of_a_huge_page_is_not_unmapped_and_the_mapping_is_named(client: GroupClient) -> None:
    container = client.container()
    client.map(container, client.caller.memory.map(512, ram=Ram(512, order=9)), HUGE, HUGE)
    with refused(errno.EINVAL) as info:
        client.unmap(container, HUGE, PAGE_SIZE)
    assert "would cut the mapping 0x200000-0x3fffff in two" in info.value.refusal.reason


def test_an_iova_off_the_page_size_names_the_page_size(client: GroupClient) -> None:
    container, vaddr = client.container(), client.caller.memory.map(1)
    with refused(errno.EINVAL) as info:
        client.map(container, vaddr, PAGE_SIZE, IOVA + 512)
    assert str(info.value.refusal.culprit) == "limit 0x1000"


@pytest.mark.parametrize("node", ["/dev/vfio/vfio", "/dev/iommu"])
def test_too_little_locked_memory_names_the_limit(client: GroupClient, node: str) -> None:
    """The usual 8 MiB, and a program that maps its heap: by a container, or an iommufd in its place."""
    client.caller.capabilities.discard(Capability.IPC_LOCK)
    client.caller.memory.memlock = 8 * PAGE_SIZE
    group, container = client.open(client.group_of()), client.open(node)
    client.set_container(group, container)
    client.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    client.device(group)
    vaddr = client.caller.memory.map(16)
    client.map(container, vaddr, 8 * PAGE_SIZE, IOVA)
    with refused(errno.ENOMEM) as info:
        client.map(container, vaddr, PAGE_SIZE, 0)
    assert str(info.value.refusal.culprit) == f"limit RLIMIT_MEMLOCK={8 * PAGE_SIZE}"
    assert "8 pages locked and asks for 1 more" in info.value.refusal.reason


def test_a_reserved_region_is_named_with_what_can_be_mapped(client: GroupClient) -> None:
    """The window of message interrupts, into which memory of 4 GiB from 0 reaches."""
    container, vaddr = client.container(), client.caller.memory.map(1)
    with refused(errno.EINVAL) as info:
        client.map(container, vaddr, PAGE_SIZE, 0xFEE0_0000)
    assert "0x0-0xfedfffff, 0xfef00000-0xffffffffffff" in info.value.refusal.reason


def test_an_iommufd_that_serves_the_container_says_that_it_has_no_address_space() -> None:
    """Where iommufd serves /dev/vfio/vfio, the order of calls is answered with ENODEV instead."""
    with program(container="iommufd") as client:
        container = client.open("/dev/vfio/vfio")
        with refused(errno.ENODEV) as info:
            client.map(container, client.caller.memory.map(1), PAGE_SIZE, IOVA)
        assert "no group is in this container" in info.value.refusal.reason
        client.set_container(client.open(client.group_of()), container)
        client.map(container, client.caller.memory.map(1), PAGE_SIZE, IOVA)
        found = client.call(
            container, iommufd.IOMMU_VFIO_IOAS, iommufd.iommu_vfio_ioas(size=12, op=iommufd.IOMMU_VFIO_IOAS_GET)
        )
        assert found.ioas_id == 1
