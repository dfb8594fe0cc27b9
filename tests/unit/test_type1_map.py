"""VFIO_IOMMU_MAP_DMA of a type 1 container: what is mapped, what is refused, in which order (vfio_dma_do_map, 7.3)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ioas.host import PAGE_SIZE, Capability
from ioas.uapi import vfio
from tests.support.caller import FakeCaller
from tests.support.group_client import BDF, READ, READ_WRITE, VADDR, WRITE, GroupClient, program
from tests.support.vfio_client import CONFIG, refused

ENTRY_LIMIT = 65535
IOVA = 0x10_0000
TOP = (1 << 64) - PAGE_SIZE
VERSIONS = (vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program() as client:
        yield client


@pytest.fixture(params=VERSIONS, ids=["type1", "type1v2"])
def container(client: GroupClient, request: pytest.FixtureRequest) -> int:
    return client.container(request.param)


def device_dma(client: GroupClient, iova: int, length: int) -> bytes | None:
    """What the device reads there."""
    return client.host.functions[BDF].requester.dma.read(iova, length)


def test_the_device_reaches_what_is_mapped(client: GroupClient, container: int) -> None:
    memory = client.caller.memory
    vaddr = memory.map(3)
    memory.write(vaddr + PAGE_SIZE, b"here")
    client.map(container, vaddr, 3 * PAGE_SIZE, IOVA)
    assert device_dma(client, IOVA + PAGE_SIZE, 4) == b"here"
    assert client.host.functions[BDF].requester.dma.write(IOVA, b"back")
    assert memory.read(vaddr, 4) == b"back"


def test_a_device_writes_only_where_it_may(client: GroupClient, container: int) -> None:
    dma = client.host.functions[BDF].requester.dma
    vaddr = client.caller.memory.map(1)
    client.map(container, vaddr, PAGE_SIZE, IOVA, READ)
    assert dma.read(IOVA, 4) == bytes(4)
    assert not dma.write(IOVA, b"x")
    client.map(container, vaddr, PAGE_SIZE, IOVA + PAGE_SIZE, WRITE)
    assert dma.write(IOVA + PAGE_SIZE, b"x")


def test_pages_stay_when_the_program_has_unmapped_them(client: GroupClient, container: int) -> None:
    memory = client.caller.memory
    vaddr = memory.map(1)
    memory.write(vaddr, b"kept")
    client.map(container, vaddr, PAGE_SIZE, IOVA)
    memory.unmap(vaddr, 1)
    assert device_dma(client, IOVA, 4) == b"kept"


@pytest.mark.parametrize(
    ("vaddr", "iova", "size", "flags", "number"),
    [
        (0, 0, 0, READ, errno.EINVAL),
        (0, TOP, 2 * PAGE_SIZE, 0, errno.EOVERFLOW),
        (TOP, 0, 2 * PAGE_SIZE, 0, errno.EOVERFLOW),
        (0, 0, PAGE_SIZE, 0, errno.EINVAL),
        (0, 0, PAGE_SIZE, READ | VADDR, errno.EINVAL),
        (0, 0, PAGE_SIZE, 8, errno.EINVAL),
        (1, 0, PAGE_SIZE, READ, errno.EINVAL),
        (0, 1, PAGE_SIZE, READ, errno.EINVAL),
        (0, 0, PAGE_SIZE + 1, READ, errno.EINVAL),
        (0, 1 << 48, PAGE_SIZE, READ, errno.EINVAL),
        (0, 0xFEE0_0000, PAGE_SIZE, READ, errno.EINVAL),
        (0, 0xFEDF_F000, 2 * PAGE_SIZE, READ, errno.EINVAL),
        (0, IOVA, PAGE_SIZE, READ, errno.EFAULT),
    ],
)
def test_what_cannot_be_mapped(
    client: GroupClient, container: int, vaddr: int, iova: int, size: int, flags: int, number: int
) -> None:
    with refused(number):
        client.map(container, vaddr, size, iova, flags)
    assert client.available(container) == ENTRY_LIMIT


def test_a_short_structure_is_refused(client: GroupClient, container: int) -> None:
    with refused(errno.EINVAL):
        client.call(container, vfio.VFIO_IOMMU_MAP_DMA, vfio.vfio_iommu_type1_dma_map(argsz=31, flags=READ, size=4096))
    with refused(errno.EFAULT):
        client.ioctl(container, vfio.VFIO_IOMMU_MAP_DMA, 16)


def test_mappings_do_not_overlap(client: GroupClient, container: int) -> None:
    vaddr = client.caller.memory.map(4)
    client.map(container, vaddr, 2 * PAGE_SIZE, IOVA)
    for iova in (IOVA - PAGE_SIZE, IOVA, IOVA + PAGE_SIZE):
        with refused(errno.EEXIST) as info:
            client.map(container, vaddr, 2 * PAGE_SIZE, iova)
        assert f"{IOVA:#x}" in str(info.value.refusal.culprit)


def test_a_hole_leaves_nothing_mapped(client: GroupClient, container: int) -> None:
    vaddr = client.caller.memory.map(3)
    client.caller.memory.unmap(vaddr + PAGE_SIZE, 1)
    with refused(errno.EFAULT):
        client.map(container, vaddr, 3 * PAGE_SIZE, IOVA)
    assert device_dma(client, IOVA, 4) is None
    assert client.caller.memory.locked_pages == 0


def test_memory_that_may_not_be_written_is_not_mapped_for_writing(client: GroupClient, container: int) -> None:
    vaddr = client.caller.memory.map(1, write=False)
    with refused(errno.EFAULT):
        client.map(container, vaddr, PAGE_SIZE, IOVA)
    client.map(container, vaddr, PAGE_SIZE, IOVA, READ)


def test_every_group_of_a_container_reaches_the_same() -> None:
    with program("edu", "edu") as client:
        first, second = client.host.functions
        container = client.container(vfio.VFIO_TYPE1v2_IOMMU, first)
        vaddr = client.caller.memory.map(1)
        client.map(container, vaddr, PAGE_SIZE, IOVA)
        client.set_container(client.open(client.group_of(second)), container)
        requesters = [client.host.functions[bdf].requester for bdf in (first, second)]
        assert requesters[0].domain is requesters[1].domain  # of one unit: one domain
        assert requesters[1].dma.write(IOVA, b"both")
        assert requesters[0].dma.read(IOVA, 4) == b"both"


def test_mappings_go_with_the_last_group() -> None:
    with program("edu", "edu") as client:
        container = client.open("/dev/vfio/vfio")
        groups = [client.open(client.group_of(bdf)) for bdf in client.host.functions]
        for group in groups:
            client.set_container(group, container)
        client.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
        client.map(container, client.caller.memory.map(1), PAGE_SIZE, IOVA)
        client.unset_container(groups[0])
        assert client.available(container) == ENTRY_LIMIT - 1
        client.unset_container(groups[1])
        assert client.caller.memory.locked_pages == 0
        with refused(errno.EINVAL):
            client.info(container)
        client.set_container(groups[0], container)
        with refused(errno.EINVAL):
            client.info(container)  # a driver is to be chosen again
        client.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)


def test_a_device_keeps_its_group_in_the_container() -> None:
    with program() as client:
        container = client.container()
        group = client.fds[-1]
        device = client.device(group)
        with refused(errno.EBUSY) as info:
            client.unset_container(group)
        assert str(info.value.refusal.culprit) == f"device {BDF}"
        client.close(group, container)  # the device keeps both
        assert len(client.file(device).read(client.caller, 4, CONFIG)) == 4
        with refused(errno.EBUSY):
            client.open(client.group_of())
        client.close(device)
        client.open(client.group_of())


def test_locked_memory_is_counted_by_process(client: GroupClient, container: int) -> None:
    memory = client.caller.memory
    vaddr = memory.map(4)
    client.map(container, vaddr, 4 * PAGE_SIZE, IOVA)
    assert (memory.locked_pages, memory.pinned_pages) == (4, 0)
    client.map(container, vaddr, PAGE_SIZE, 2 * IOVA)  # once more: counted once more
    assert memory.locked_pages == 5
    client.unmap(container, IOVA, 4 * PAGE_SIZE)
    assert memory.locked_pages == 1


def test_the_limit_counts_before_a_hole_behind_it(client: GroupClient, container: int) -> None:
    caller = client.caller
    caller.capabilities.discard(Capability.IPC_LOCK)
    caller.memory.memlock = 2 * PAGE_SIZE
    vaddr = caller.memory.map(5)
    caller.memory.unmap(vaddr + 4 * PAGE_SIZE, 1)
    with refused(errno.ENOMEM):
        client.map(container, vaddr, 5 * PAGE_SIZE, IOVA)
    caller.memory.unmap(vaddr + 2 * PAGE_SIZE, 1)
    with refused(errno.EFAULT):
        client.map(container, vaddr, 5 * PAGE_SIZE, IOVA)
    assert caller.memory.locked_pages == 0


def test_an_address_is_given_up_and_renewed_by_another_process() -> None:
    with program() as client:
        container = client.container()
        vaddr = client.caller.memory.map(2)
        client.map(container, vaddr, 2 * PAGE_SIZE, IOVA)
        assert client.unmap(container, 0, 0, vfio.VFIO_DMA_UNMAP_FLAG_ALL | vfio.VFIO_DMA_UNMAP_FLAG_VADDR) == 8192
        with refused(errno.EINVAL):
            client.unmap(container, IOVA, 8192, vfio.VFIO_DMA_UNMAP_FLAG_VADDR)
        assert client.host.functions[BDF].requester.dma.write(IOVA, b"on")  # DMA goes on meanwhile
        with refused(errno.EINVAL):
            client.map(container, vaddr, PAGE_SIZE, IOVA, VADDR)
        with refused(errno.ENOENT):
            client.map(container, vaddr, PAGE_SIZE, 16 * IOVA, VADDR)
        former, client.caller = client.caller, _successor(client.caller)
        client.map(container, client.caller.memory.map(2), 2 * PAGE_SIZE, IOVA, VADDR)
        assert (former.memory.locked_pages, client.caller.memory.locked_pages) == (0, 2)
        with refused(errno.EINVAL):
            client.map(container, vaddr, 2 * PAGE_SIZE, IOVA, VADDR)


def _successor(caller: FakeCaller) -> FakeCaller:
    """A process with the same files and memory of its own."""
    successor = FakeCaller()
    successor.files = caller.files
    return successor


def test_no_group_comes_while_an_address_is_lost() -> None:
    with program("edu", "edu") as client:
        first, second = client.host.functions
        container = client.container(vfio.VFIO_TYPE1v2_IOMMU, first)
        vaddr = client.caller.memory.map(1)
        client.map(container, vaddr, PAGE_SIZE, IOVA)
        client.unmap(container, IOVA, PAGE_SIZE, vfio.VFIO_DMA_UNMAP_FLAG_VADDR)
        group = client.open(client.group_of(second))
        with refused(errno.EBUSY):
            client.set_container(group, container)
        client.map(container, vaddr, PAGE_SIZE, IOVA, VADDR)
        client.set_container(group, container)


def test_large_pages_are_used_where_memory_and_iova_allow() -> None:
    """What the container maps is what the unit walks: 2 MiB pages for hugetlb memory, 4 KiB for the rest."""
    with program() as client:
        container = client.container()
        vaddr = client.caller.memory.map(2)
        client.map(container, vaddr, 2 * PAGE_SIZE, IOVA, READ_WRITE)
        domain = client.host.functions[BDF].requester.domain
        assert domain is not None
        assert domain.phys(IOVA) != domain.phys(IOVA + PAGE_SIZE)
