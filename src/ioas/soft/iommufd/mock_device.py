"""The mock device of the kernel's selftests (drivers/iommu/iommufd/selftest.c, 7.3).

A test makes a device out of nothing, attached to an IOAS or a page table; it does no DMA. Its IOMMU is the mock
unit, with a granule of 2 KiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL, ENOMEM, EOPNOTSUPP
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import KernelError, refuse
from ioas.soft.iommu import Group, Requester, System, Unit, mock_unit
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.mock_nested import MockNested, MockViommu, make_mock_nested
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.userdata import UserData
from ioas.soft.iommufd.viommu import Viommu, get_virtual_id
from ioas.uapi.iommufd import (
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_DATA_NONE,
)
from ioas.uapi.iommufd_test import (
    IOMMU_HWPT_DATA_SELFTEST,
    IOMMU_TEST_DEV_CACHE_DEFAULT,
    IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
    IOMMU_VIOMMU_TYPE_SELFTEST,
    MOCK_DEV_CACHE_NUM,
    MOCK_FLAGS_DEVICE_NO_DIRTY,
    MOCK_FLAGS_DEVICE_PASID,
    MOCK_IOMMUPT_DEFAULT,
    MOCK_IOMMUPT_HUGE,
    MOCK_PASID_WIDTH,
    iommu_hwpt_selftest,
    iommu_test_cmd,
)

if TYPE_CHECKING:
    from ioas.soft.iommu import AnyDomain, Domain
    from ioas.soft.iommufd.context import Context
    from ioas.soft.iommufd.group import DeviceGroup

MOCK_PASID_FAILING = 1024
_DEVICE_FLAGS = MOCK_FLAGS_DEVICE_NO_DIRTY | MOCK_FLAGS_DEVICE_PASID


class MockDevice(Device):
    """A mock device as a bound device: its table data is the tests' own, and it has a mock cache."""

    __slots__ = ("cache",)

    holds_context: ClassVar[bool] = False
    """It is made by a command on the context itself, and goes with it."""
    needs_isolated_interrupts: ClassVar[bool] = False
    """It has none."""

    def __init__(self, context: Context, requester: Requester, unit: Unit, group: DeviceGroup) -> None:
        """Use `bind`."""
        super().__init__(context, requester, unit, group)
        self.cache = [IOMMU_TEST_DEV_CACHE_DEFAULT] * MOCK_DEV_CACHE_NUM

    def make_domain(self, flags: int, data: UserData | None) -> Domain:
        """Follows mock_domain_alloc_paging_flags: the data may ask for huge pages. Raises KernelError(EOPNOTSUPP)."""
        kind = MOCK_IOMMUPT_DEFAULT
        if data is not None:
            kind = _table_kind(data)
        return self.unit.domain(
            dirty=bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING),
            nest_parent=bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT),
            pasid=bool(flags & IOMMU_HWPT_ALLOC_PASID),
            huge=kind == MOCK_IOMMUPT_HUGE,
        )

    def check_nesting(self) -> None:
        """The mock has nested tables."""

    def make_nested(self, parent: Domain, flags: int, data: UserData) -> MockNested:
        """Follows mock_domain_alloc_nested. Raises KernelError: EOPNOTSUPP, EINVAL, EFAULT."""
        return make_mock_nested(parent, flags, data)

    def viommu_model(self, kind: int) -> MockViommu | None:
        """One of the selftests' type."""
        return MockViommu() if kind == IOMMU_VIOMMU_TYPE_SELFTEST else None


class MockObject(Object):
    """What IOMMU_TEST_OP_MOCK_DOMAIN makes: destroying it takes the device away."""

    __slots__ = ("device", "requester")

    kind = "mock device"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requester: Requester | None = None
        self.device: MockDevice | None = None

    def plug(self, flags: int, pt_id: int) -> tuple[MockDevice, int]:
        """Make the device, bind it and attach it to `pt_id`; return it and its table's id.

        Raises KernelError, with nothing left behind but this object: EINVAL for unknown flags, and as `Device.attach`.
        """
        if flags & ~_DEVICE_FLAGS:
            raise refuse(EINVAL, f"device flags {flags:#x} are not all known", "field", "dev_flags")
        self.requester = _new_requester(self.context.system, flags)
        try:
            self.device = MockDevice.bind(self.context, self.requester)
            return self.device, self.device.attach(pt_id)
        except KernelError:
            self.destroy()
            raise

    def uses(self) -> Sequence[Object]:
        """The bound device."""
        return (self.device,) if self.device is not None else ()

    def destroy(self) -> None:
        """Detach, unbind and remove the device (iommufd_selftest_destroy)."""
        if self.device is not None:
            self.device.unbind()
        if self.requester is not None:
            self.requester.remove()
        self.device = self.requester = None


def mock_domain(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_MOCK_DOMAIN and _FLAGS: a new mock device, attached to object `id` (iommufd_test_mock_domain)."""
    command, objects = call.command, call.context.objects
    flags = command.mock_domain_flags.dev_flags if command.op == IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS else 0
    mock = MockObject(call.context)
    try:
        device, table_id = mock.plug(flags, command.id)
        command.mock_domain.out_stdev_id = mock.id
        command.mock_domain.out_hwpt_id = table_id
        command.mock_domain.out_idev_id = device.id
        call.respond()
    except KernelError:
        mock.destroy()
        objects.abandon(mock)
        raise
    objects.publish(mock)


def mock_domain_replace(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE: attach mock device `id` elsewhere (iommufd_test_mock_domain_replace)."""
    command = call.command
    mock = call.context.objects.get(command.id, MockObject)
    if mock.device is not None:
        command.mock_domain_replace.pt_id = mock.device.replace(command.mock_domain_replace.pt_id)
    call.respond()


def dev_check_cache(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_DEV_CHECK_CACHE: whether a mock cache entry of device `id` has a value. EINVAL if not."""
    command = call.command
    device = call.context.objects.get(command.id, Device)
    entry, value = command.check_dev_cache.id, command.check_dev_cache.cache
    cache = device.cache if isinstance(device, MockDevice) else []
    if entry >= len(cache) or cache[entry] != value:
        raise refuse(EINVAL, f"cache entry {entry} of {device} is not {value:#x}", "device", device.name)


def _table_kind(data: UserData) -> int:
    """Which mock table the user's data asks for (mock_domain_alloc_paging_flags, mock_domain_alloc_pgtable)."""
    if data.kind not in (IOMMU_HWPT_DATA_SELFTEST, IOMMU_HWPT_DATA_NONE):
        raise refuse(EOPNOTSUPP, f"data_type {data.kind:#x} is not the selftest's", "field", "data_type")
    kind: int = data.take(IOMMU_HWPT_DATA_SELFTEST, iommu_hwpt_selftest, "iotlb").pagetable_type
    if kind not in (MOCK_IOMMUPT_DEFAULT, MOCK_IOMMUPT_HUGE):
        raise refuse(EOPNOTSUPP, f"mock page table type {kind} is unknown", "field", "pagetable_type")
    return kind


class MockRequester(Requester):
    """The mock device's: every second attach of PASID 1024 fails, so that tests see a replace fail half-way."""

    _failing = False

    def __init__(self, system: System, name: str, unit: Unit | None, group: Group | None) -> None:
        super().__init__(system, name, unit, group)
        self.page_requests = True
        self.viommu: Viommu | None = None
        """Behind which it is attached."""
        self.virtual_id = 0
        """As which device, since it came there."""

    @property
    def pasids(self) -> int:
        """Always some: one of no bits, which no PASID is, where the device was made without (mock_dev_create)."""
        return 1 << self.pasid_width

    def attach(self, domain: AnyDomain | None, pasid: int | None = None) -> None:
        """As every requester's, but for what mock_domain_set_dev_pasid_nop does. Raises KernelError(ENOMEM).

        Behind which vIOMMU it is, and as which device, it learns when it comes there (mock_domain_nop_attach).
        """
        if pasid == MOCK_PASID_FAILING and domain is None:
            self._failing = False
        super().attach(domain, pasid)
        viommu = domain.viommu if isinstance(domain, MockNested) else None
        if pasid is None and viommu is not self.viommu:
            self.viommu = viommu
            self.virtual_id = get_virtual_id(viommu, self) if viommu is not None else 0

    def _check(self, domain: AnyDomain, pasid: int | None) -> None:
        super()._check(domain, pasid)
        if pasid == MOCK_PASID_FAILING:
            self._failing = not self._failing
            if not self._failing:
                raise refuse(ENOMEM, "the mock device fails every second time", "device", self.name)


def _new_requester(system: System, flags: int) -> Requester:
    """A mock device with the lowest free name, in a group of its own, behind the machine's mock unit."""
    names = {requester.name for group in system.groups.values() for requester in group.requesters}
    name = next(name for name in (f"iommufd_mock{number}" for number in count()) if name not in names)
    requester = MockRequester(system, name, _mock_unit(system), system.add_group())
    requester.dirty_tracking = not flags & MOCK_FLAGS_DEVICE_NO_DIRTY
    requester.max_pasid_log2 = MOCK_PASID_WIDTH if flags & MOCK_FLAGS_DEVICE_PASID else 0
    return requester


def _mock_unit(system: System) -> Unit:
    return next((unit for unit in system.units if unit.kind == "mock"), None) or mock_unit(system)
