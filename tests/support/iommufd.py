"""/dev/iommu as tests want it: a machine, a caller, and the commands as methods that return what the structures do."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, memmove, sizeof
from typing import Any, TypeVar

from ioas.soft.iommu import Requester, System, Unit, vtd_unit
from ioas.soft.iommufd import Context, Device
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from ioas.uapi.base import Struct
from tests.support.caller import FakeCaller

S = TypeVar("S", bound=Struct)

READ, WRITE, FIXED = uapi.IOMMU_IOAS_MAP_READABLE, uapi.IOMMU_IOAS_MAP_WRITEABLE, uapi.IOMMU_IOAS_MAP_FIXED_IOVA
RW = READ | WRITE
PAGE = 4096
MOCK = test_uapi.MOCK_APERTURE_START
"""The first IOVA that the mock device can use."""
EVERYTHING = (1 << 64) - 1


class Iommufd:
    """An open /dev/iommu with a caller; structures stand in the caller's memory, as another process's do."""

    def __init__(self, system: System | None = None, caller: FakeCaller | None = None, *, test: bool = True) -> None:
        self.system = system or System()
        self.caller = caller or FakeCaller()
        self.context = Context(self.system, test=test)
        self._place = self.caller.memory.map(2)

    def call(self, request: int, command: S, caller: FakeCaller | None = None) -> S:
        """Carry out `command` (its `size` is filled in unless it is set) and return it as it came back."""
        if not command.size:
            command.size = sizeof(command)
        caller = caller or self.caller
        place = self._place if caller is self.caller else caller.memory.map(1)
        caller.memory.write(place, bytes(command))
        try:
            assert self.context.ioctl(caller, request, place) == 0
        finally:
            memmove(addressof(command), caller.memory.read(place, sizeof(command)), sizeof(command))
        return command

    def alloc(self) -> int:
        return self.call(uapi.IOMMU_IOAS_ALLOC, uapi.iommu_ioas_alloc()).out_ioas_id

    def destroy(self, number: int) -> None:
        self.call(uapi.IOMMU_DESTROY, uapi.iommu_destroy(id=number))

    def map(
        self,
        ioas: int,
        address: int,
        length: int,
        iova: int | None = None,
        flags: int = RW,
        caller: FakeCaller | None = None,
    ) -> int:
        command = uapi.iommu_ioas_map(ioas_id=ioas, user_va=address, length=length, flags=flags)
        if iova is not None:
            command.flags |= FIXED
            command.iova = iova
        return self.call(uapi.IOMMU_IOAS_MAP, command, caller).iova

    def map_file(self, ioas: int, fd: int, start: int, length: int, iova: int | None = None, flags: int = RW) -> int:
        command = uapi.iommu_ioas_map_file(ioas_id=ioas, fd=fd, start=start, length=length, flags=flags)
        if iova is not None:
            command.flags |= FIXED
            command.iova = iova
        return self.call(uapi.IOMMU_IOAS_MAP_FILE, command).iova

    def copy(
        self, source: int, source_iova: int, length: int, target: int, iova: int | None = None, flags: int = RW
    ) -> int:
        command = uapi.iommu_ioas_copy(
            flags=flags, src_ioas_id=source, src_iova=source_iova, dst_ioas_id=target, length=length
        )
        if iova is not None:
            command.flags |= FIXED
            command.dst_iova = iova
        return self.call(uapi.IOMMU_IOAS_COPY, command).dst_iova

    def unmap(self, ioas: int, iova: int = 0, length: int = EVERYTHING) -> int:
        return self.call(uapi.IOMMU_IOAS_UNMAP, uapi.iommu_ioas_unmap(ioas_id=ioas, iova=iova, length=length)).length

    def allow(self, ioas: int, ranges: Sequence[tuple[int, int]]) -> None:
        place = self._place + PAGE
        self.caller.memory.write(place, b"".join(bytes(uapi.iommu_iova_range(start=a, last=b)) for a, b in ranges))
        command = uapi.iommu_ioas_allow_iovas(ioas_id=ioas, num_iovas=len(ranges), allowed_iovas=place)
        self.call(uapi.IOMMU_IOAS_ALLOW_IOVAS, command)

    def ranges(self, ioas: int, room: int = 64) -> tuple[list[tuple[int, int]], int]:
        """The usable ranges, and the alignment."""
        place = self._place + PAGE
        command = uapi.iommu_ioas_iova_ranges(ioas_id=ioas, num_iovas=room, allowed_iovas=place)
        self.call(uapi.IOMMU_IOAS_IOVA_RANGES, command)
        data = self.caller.memory.read(place, 16 * command.num_iovas)
        found = [uapi.iommu_iova_range.from_buffer_copy(data, at) for at in range(0, len(data), 16)]
        return [(one.start, one.last) for one in found], command.out_iova_alignment

    def option(self, option: int, op: int, value: int = 0, number: int = 0, caller: FakeCaller | None = None) -> int:
        command = uapi.iommu_option(option_id=option, op=op, object_id=number, val64=value)
        return self.call(uapi.IOMMU_OPTION, command, caller).val64

    def hwpt(self, device: int, pt_id: int, flags: int = 0, **fields: Any) -> int:
        command = uapi.iommu_hwpt_alloc(dev_id=device, pt_id=pt_id, flags=flags, **fields)
        return self.call(uapi.IOMMU_HWPT_ALLOC, command).out_hwpt_id

    def test(
        self, op: int, number: int = 0, caller: FakeCaller | None = None, **fields: Any
    ) -> test_uapi.iommu_test_cmd:
        """IOMMU_TEST_CMD: `fields` is the operation's member of the union, as ``name={field: value}``."""
        command = test_uapi.iommu_test_cmd(op=op, id=number)
        for member, values in fields.items():
            for name, value in values.items():
                setattr(getattr(command, member), name, value)
        return self.call(test_uapi.IOMMU_TEST_CMD, command, caller)

    def mock(self, pt_id: int, flags: int | None = None) -> tuple[int, int, int]:
        """A mock device attached to `pt_id`: ids of the test object, its page table, and the device."""
        if flags is None:
            made = self.test(test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN, pt_id)
        else:
            made = self.test(test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, pt_id, mock_domain_flags={"dev_flags": flags})
        return made.mock_domain.out_stdev_id, made.mock_domain.out_hwpt_id, made.mock_domain.out_idev_id

    def reserve(self, ioas: int, start: int, length: int) -> None:
        self.test(test_uapi.IOMMU_TEST_OP_ADD_RESERVED, ioas, add_reserved={"start": start, "length": length})

    def access(self, ioas: int, *, pins: bool = True) -> int:
        """A test access; its descriptor."""
        fields: dict[str, Any] = {"create_access": {"flags": int(pins)}}
        return self.test(test_uapi.IOMMU_TEST_OP_CREATE_ACCESS, ioas, **fields).create_access.out_access_fd

    def pin(self, access: int, iova: int, length: int, address: int = 0, *, write: bool = False) -> int:
        """Pin pages through a test access; the number of the pin."""
        pages = {"iova": iova, "length": length, "uptr": address, "flags": int(write)}
        done = self.test(test_uapi.IOMMU_TEST_OP_ACCESS_PAGES, access, access_pages=pages)
        return done.access_pages.out_access_pages_id

    def unpin(self, access: int, number: int) -> None:
        self.test(
            test_uapi.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, access, destroy_access_pages={"access_pages_id": number}
        )

    def bind(self, requester: Requester) -> Device:
        return Device.bind(self.context, requester)

    def close(self) -> None:
        """Close the file and every descriptor of the caller."""
        self.caller.close_all()
        self.context.close()

    def leaks(self) -> dict[str, int]:
        """What is held after `close`; empty when nothing is."""
        found = {
            "frames": self.system.memory.held_frames,
            "tables": self.system.memory.table_frames,
            "pinned": self.caller.memory.pinned_pages,
            "locked": self.caller.memory.locked_pages,
            "charged": self.system.accounting.locked(self.caller.uid),
            "groups": sum(group.owner is not None for group in self.system.groups.values()),
        }
        return {name: number for name, number in found.items() if number}


def vtd(system: System) -> Unit:
    """The machine's VT-d unit, made when there is none."""
    return next((unit for unit in system.units if unit.kind == "vtd"), None) or vtd_unit(system)


def requester(system: System, name: str = "0000:01:00.0", beside: Requester | None = None) -> Requester:
    """A device behind the VT-d unit, in a group of its own or in that of `beside`."""
    group = beside.group if beside is not None else system.add_group()
    return Requester(system, name, vtd(system), group)
