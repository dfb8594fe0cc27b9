"""PASIDs of a PCI function behind a scalable VT-d unit: one device, an address space for each number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import ioas
from ioas.api import Device, Ioas, Iommufd, SoftHost
from ioas.errors import InvalidArgument, NoSpace, NotSupported, UsageError
from ioas.soft.iommu import Requester, System, vtd_unit
from ioas.soft.pci import (
    Acs,
    Bar,
    Capability,
    Function,
    ManualTimers,
    Pasid,
    Pcie,
    SrIov,
    Topology,
    VirtualFunction,
    header,
)
from ioas.soft.pci.capabilities import pasid as registers
from ioas.uapi.iommufd import (
    IOMMU_HW_CAP_PCI_PASID_EXEC,
    IOMMU_HW_CAP_PCI_PASID_PRIV,
    IOMMU_PGFAULT_FLAGS_PASID_VALID,
    iommu_hw_info_vtd,
)
from tests.support.machine import set_command

IOVA = 0x10_0000
WIDTH = 8
TIMEOUT = 30


class Engine(Function):
    """A function with a queue, as it were, for each of 256 PASIDs."""

    model: ClassVar[str] = "engine"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x1111
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(flr=True), Pasid(WIDTH, privileged=True))
    registers = Bar(0, 4096)


class Rig:
    """A machine with an engine, bound and attached without PASID to a space of its own."""

    def __init__(self, host: SoftHost, iommufd: Iommufd, device: Device, engine: Engine) -> None:
        self.host, self.iommufd, self.device, self.engine = host, iommufd, device, engine

    def space(self, pasid: int | None, text: bytes) -> Ioas:
        """A space with one page that begins with `text`, attached to `pasid`."""
        space = self.iommufd.ioas()
        self.device.attach(self.iommufd.hwpt(self.device, space, pasid=True), pasid)
        space.alloc(4096, writable=True, iova=IOVA).view[: len(text)] = text
        return space

    def read(self, pasid: int | None, length: int = 3) -> bytes | None:
        return self.engine.dma.read(IOVA, length, pasid)

    def reasons(self) -> list[tuple[int | None, str]]:
        """What was stopped since the last time: PASID and reason."""
        found = [(record.pasid, record.reason) for record in self.host.machine.system.faults]
        self.host.machine.system.faults.clear()
        return found


def rig_with(tmp_path: Path, iommu: str = "scalable = true", engine: Engine | None = None) -> Iterator[Rig]:
    file = tmp_path / "lab.toml"
    file.write_text(f"[iommu]\n{iommu}\n")
    function = engine or Engine()
    with (
        ioas.SoftHost(devices=[function], machine=file) as host,
        host.iommufd() as iommufd,
        host.device("0000:01:00.0") as device,
    ):
        device.bind(iommufd)
        device.bus_master = True
        yield Rig(host, iommufd, device, function)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from rig_with(tmp_path)


def test_each_pasid_has_an_address_space_of_its_own(rig: Rig) -> None:
    for number, text in ((None, b"own"), (1, b"one"), (255, b"end")):
        rig.space(number, text)
    assert [rig.read(number) for number in (None, 1, 255)] == [b"own", b"one", b"end"]
    assert rig.engine.dma.write(IOVA, b"two", 1)
    assert [rig.read(number) for number in (None, 1, 255)] == [b"own", b"two", b"end"]
    assert rig.reasons() == []


def test_a_pasid_that_is_not_attached_reaches_nothing_and_the_fault_names_it(rig: Rig) -> None:
    rig.space(None, b"own")
    rig.space(1, b"one")
    assert rig.read(2) is None
    assert not rig.engine.dma.write(IOVA, b"no", 2)
    rig.device.detach(1)
    assert rig.read(1) is None
    assert rig.reasons() == [(2, "pasid"), (2, "pasid"), (1, "pasid")]
    assert rig.read(None) == b"own"


def test_detaching_the_device_leaves_its_pasids(rig: Rig) -> None:
    rig.space(None, b"own")
    rig.space(1, b"one")
    rig.device.detach()
    assert (rig.read(None), rig.read(1)) == (None, b"one")
    assert rig.reasons() == [(None, "blocked")]


def test_what_is_unmapped_for_one_pasid_stays_mapped_and_cached_for_the_others(rig: Rig) -> None:
    first, second = rig.space(1, b"one"), rig.space(2, b"two")
    assert (rig.read(1), rig.read(2)) == (b"one", b"two")
    cached = dict(rig.engine.requester.domains[2].iotlb.entries)
    first.unmap(IOVA, 4096)
    assert cached
    assert rig.engine.requester.domains[2].iotlb.entries == cached
    assert (rig.read(1), rig.read(2)) == (None, b"two")
    assert rig.reasons() == [(1, "not mapped")]
    second.unmap(IOVA, 4096)
    assert rig.read(2) is None


def test_a_pasid_moves_to_another_table_and_never_stands_without_one(rig: Rig) -> None:
    rig.space(1, b"old")
    assert rig.read(1) == b"old"
    rig.space(1, b"new")
    assert rig.read(1) == b"new"
    assert rig.reasons() == []


def test_two_pasids_may_share_a_table(rig: Rig) -> None:
    space = rig.space(1, b"one")
    table = rig.iommufd.hwpt(rig.device, space, pasid=True)
    rig.device.attach(table, 2)
    rig.device.attach(table, 3)
    assert rig.read(2) == rig.read(3) == b"one"
    rig.device.detach(2)
    assert (rig.read(2), rig.read(3)) == (None, b"one")


def test_a_table_without_alloc_pasid_is_refused_by_name(rig: Rig) -> None:
    space = rig.iommufd.ioas()
    with pytest.raises(InvalidArgument, match="ALLOC_PASID"):
        rig.device.attach(rig.iommufd.hwpt(rig.device, space), 1)
    with pytest.raises(InvalidArgument, match="ALLOC_PASID"):
        rig.device.attach(space, 1)
    rig.space(1, b"one")
    with pytest.raises(InvalidArgument, match="ALLOC_PASID"):
        rig.device.attach(rig.iommufd.hwpt(rig.device, space))


@pytest.mark.parametrize(("number", "error"), [(1 << WIDTH, InvalidArgument), (1 << 31, NoSpace)])
def test_a_pasid_that_is_too_wide_is_refused(rig: Rig, number: int, error: type[Exception]) -> None:
    table = rig.iommufd.hwpt(rig.device, rig.iommufd.ioas(), pasid=True)
    with pytest.raises(error, match=r"bits"):
        rig.device.attach(table, number)


def test_the_hardware_information_tells_width_and_features(rig: Rig) -> None:
    info = rig.device.hw_info()
    assert info.max_pasid_log2 == WIDTH
    assert info.capabilities & IOMMU_HW_CAP_PCI_PASID_PRIV
    assert not info.capabilities & IOMMU_HW_CAP_PCI_PASID_EXEC
    extended = iommu_hw_info_vtd.from_buffer_copy(info.data).ecap_reg
    assert (extended >> 40 & 1, extended >> 35 & 0x1F) == (1, 19)


def test_programs_do_not_see_the_capability_as_in_7_3(rig: Rig) -> None:
    """PCI_EXT_CAP_ID_PASID has length 0 in vfio_pci_config.c: it is the only one here, so the list is empty."""
    assert rig.device.config.read32(0x100) & 0xFFFF == 0
    placed = rig.engine.find(Pasid)
    assert placed is not None
    control = rig.engine.config.get(placed[1] + registers.CONTROL, 2)
    assert control == registers.ENABLE | registers.PRIVILEGED


def test_a_reset_leaves_pasids_on(rig: Rig) -> None:
    rig.space(1, b"one")
    rig.engine.reset_by("flr")
    rig.device.bus_master = True
    assert rig.read(1) == b"one"


def test_a_number_that_the_function_cannot_send_never_leaves_it(rig: Rig) -> None:
    assert rig.read(1 << WIDTH) is None
    assert rig.reasons() == [(1 << WIDTH, "pasid off")]
    rig.device.bus_master = False
    assert rig.read(1) is None
    assert rig.reasons() == [(1, "bus master off")]


@pytest.mark.parametrize("iommu", ["", 'kind = "amd"'])
def test_behind_a_unit_without_pasids_they_stay_off(tmp_path: Path, iommu: str) -> None:
    for rig in rig_with(tmp_path, iommu):
        assert rig.device.hw_info().max_pasid_log2 == 0
        assert rig.read(1) is None
        assert rig.reasons() == [(1, "pasid off")]


def test_a_transfer_with_a_pasid_is_over_when_its_detach_returns_and_others_do_not_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer of PASID 1 stands inside its epoch: PASID 2 comes off meanwhile, PASID 1 only after it."""
    rig.space(1, b"one")
    rig.space(2, b"two")
    domain = rig.engine.requester.domains[1]
    draining, returned = threading.Event(), threading.Event()
    drain = domain.drain
    monkeypatch.setattr(domain, "drain", lambda: (draining.set(), drain()))
    thread = threading.Thread(target=lambda: (rig.device.detach(1), returned.set()))
    transfer = domain.epoch.enter()
    try:
        rig.device.detach(2)
        thread.start()
        assert draining.wait(TIMEOUT)
        assert rig.read(1) is None, "new ones are blocked already"
        assert not returned.is_set()
    finally:
        domain.epoch.leave(transfer)
        thread.join(TIMEOUT)
    assert returned.is_set()


def test_a_function_that_is_not_isolated_gets_no_pasids() -> None:
    """pci_enable_pasid wants request redirect and upstream forwarding all the way."""

    class Isolated(Engine):
        capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(), Pasid(WIDTH), Acs())

    system = System()
    topology = Topology(system, vtd_unit(system, scalable=True), ManualTimers())
    behind_plain_port, multifunction, isolated = Engine(), Engine(), Isolated()
    topology.plug(behind_plain_port, "0000:01:00.0", acs=False)
    topology.plug(multifunction, "0000:02:00.0")
    topology.plug(isolated, "0000:02:00.1")
    topology.settle()
    controls = []
    for function in (behind_plain_port, multifunction, isolated):
        placed = function.find(Pasid)
        assert placed is not None
        controls.append(function.config.get(placed[1] + registers.CONTROL, 2))
    assert controls == [0, 0, registers.ENABLE]


@pytest.mark.parametrize("width", [0, 21])
def test_a_width_that_does_not_exist_is_refused(width: int) -> None:
    with pytest.raises(UsageError, match=f"not {width}"):
        Pasid(width)


def test_the_narrower_of_device_and_unit_counts() -> None:
    system = System()
    requester = Requester(system, "0000:01:00.0", vtd_unit(system, scalable=True), system.add_group())
    requester.max_pasid_log2 = 5
    assert requester.pasid_width == 5


def test_virtual_functions_send_the_pasids_of_their_pf(tmp_path: Path) -> None:
    class Many(VirtualFunction):
        model: ClassVar[str] = "many"
        vendor_id: ClassVar[int] = Engine.vendor_id
        capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(flr=True),)

    class Owner(Engine):
        capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(flr=True), Acs(), Pasid(WIDTH), SrIov(Many, total=2))

    for rig in rig_with(tmp_path, engine=Owner()):
        tree = rig.host.machine.tree
        tree.write("/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", b"1")
        (virtual,) = rig.engine.virtual_functions
        assert virtual.requester.pasid_width == WIDTH
        set_command(virtual, header.COMMAND_MASTER)
        virtual.dma.read(IOVA, 1, 3)
        virtual.dma.read(IOVA, 1, 1 << WIDTH)
        assert rig.reasons() == [(3, "pasid"), (1 << WIDTH, "pasid off")]
        assert virtual.requester.unit is not None
        domain = virtual.requester.unit.domain(pasid=True)
        virtual.requester.attach(domain, 3)
        virtual.dma.read(IOVA, 1, 3)
        virtual.requester.attach(None, 3)
        domain.free()
        assert rig.reasons() == [(3, "not mapped")]
        rig.device.close()
        tree.write("/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", b"0")


def test_an_amd_unit_has_no_tables_for_pasids(tmp_path: Path) -> None:
    for rig in rig_with(tmp_path, 'kind = "amd"'):
        with pytest.raises(NotSupported, match="tables for PASIDs"):
            rig.iommufd.hwpt(rig.device, rig.iommufd.ioas(), pasid=True)


def test_a_page_request_tells_its_pasid_and_the_transfer_waits_for_the_answer(tmp_path: Path) -> None:
    engine = Engine()
    engine.page_requests = True
    done = threading.Event()
    read: list[bytes | None] = []

    def finish() -> None:
        read.append(engine.dma.read(IOVA, 3, 5))
        done.set()

    for rig in rig_with(tmp_path, engine=engine):
        space = rig.iommufd.ioas()
        with rig.iommufd.fault_queue() as queue:
            table = rig.iommufd.hwpt(rig.device, space, pasid=True, faults=queue)
            rig.device.attach(table, 5)
            engine.dma.when_present(IOVA, 3, finish, write=False, pasid=5)
            [fault] = queue.wait(TIMEOUT)
            assert (fault.addr, fault.pasid) == (IOVA, 5)
            assert fault.flags & IOMMU_PGFAULT_FLAGS_PASID_VALID
            assert not done.is_set()
            page = space.alloc(4096, iova=IOVA)
            page.view[:3] = b"now"
            queue.respond(fault.cookie, resolved=True)
            assert done.wait(TIMEOUT)
            assert read == [b"now"]
            rig.device.detach(5)
            table.close()
        assert rig.reasons() == []
