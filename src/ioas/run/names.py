"""What the numbers in a call mean, for people: names of requests, their structures, and the arguments in them.

Structures are read again after the call, so fields that the call has written show what it wrote. Only used for
messages.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import Array
from typing import NamedTuple

from ioas.uapi import iommufd, iommufd_test, vfio
from ioas.uapi.base import Struct, field_names

Read = Callable[[int, int], bytes]
"""Reads (address, length) of the caller's memory; raises KernelError."""


class Request(NamedTuple):
    """An ioctl: its name, and what its argument points to (None: the argument is a plain value)."""

    name: str
    struct: type[Struct] | None


_EITHER: dict[str, type[Struct] | None] = {
    "IOMMU_DESTROY": iommufd.iommu_destroy,
    "IOMMU_IOAS_ALLOC": iommufd.iommu_ioas_alloc,
    "IOMMU_IOAS_ALLOW_IOVAS": iommufd.iommu_ioas_allow_iovas,
    "IOMMU_IOAS_COPY": iommufd.iommu_ioas_copy,
    "IOMMU_IOAS_IOVA_RANGES": iommufd.iommu_ioas_iova_ranges,
    "IOMMU_IOAS_MAP": iommufd.iommu_ioas_map,
    "IOMMU_IOAS_MAP_FILE": iommufd.iommu_ioas_map_file,
    "IOMMU_IOAS_UNMAP": iommufd.iommu_ioas_unmap,
    "IOMMU_IOAS_CHANGE_PROCESS": iommufd.iommu_ioas_change_process,
    "IOMMU_IOAS_NOIOMMU_GET_PA": iommufd.iommu_ioas_noiommu_get_pa,
    "IOMMU_OPTION": iommufd.iommu_option,
    "IOMMU_VFIO_IOAS": iommufd.iommu_vfio_ioas,
    "IOMMU_HWPT_ALLOC": iommufd.iommu_hwpt_alloc,
    "IOMMU_HWPT_SET_DIRTY_TRACKING": iommufd.iommu_hwpt_set_dirty_tracking,
    "IOMMU_HWPT_GET_DIRTY_BITMAP": iommufd.iommu_hwpt_get_dirty_bitmap,
    "IOMMU_HWPT_INVALIDATE": iommufd.iommu_hwpt_invalidate,
    "IOMMU_GET_HW_INFO": iommufd.iommu_hw_info,
    "IOMMU_FAULT_QUEUE_ALLOC": iommufd.iommu_fault_alloc,
    "IOMMU_VIOMMU_ALLOC": iommufd.iommu_viommu_alloc,
    "IOMMU_VDEVICE_ALLOC": iommufd.iommu_vdevice_alloc,
    "IOMMU_VEVENTQ_ALLOC": iommufd.iommu_veventq_alloc,
    "IOMMU_HW_QUEUE_ALLOC": iommufd.iommu_hw_queue_alloc,
    "VFIO_GET_API_VERSION": None,
    "VFIO_CHECK_EXTENSION": None,
    "VFIO_SET_IOMMU": None,
    "VFIO_GROUP_GET_STATUS": vfio.vfio_group_status,
    "VFIO_GROUP_SET_CONTAINER": None,
    "VFIO_GROUP_UNSET_CONTAINER": None,
    "VFIO_GROUP_GET_DEVICE_FD": None,
}
_DEVICE: dict[str, type[Struct] | None] = {
    "VFIO_DEVICE_GET_INFO": vfio.vfio_device_info,
    "VFIO_DEVICE_GET_REGION_INFO": vfio.vfio_region_info,
    "VFIO_DEVICE_GET_IRQ_INFO": vfio.vfio_irq_info,
    "VFIO_DEVICE_SET_IRQS": vfio.vfio_irq_set,
    "VFIO_DEVICE_RESET": None,
    "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO": vfio.vfio_pci_hot_reset_info,
    "VFIO_DEVICE_PCI_HOT_RESET": vfio.vfio_pci_hot_reset,
    "VFIO_DEVICE_IOEVENTFD": vfio.vfio_device_ioeventfd,
    "VFIO_DEVICE_FEATURE": vfio.vfio_device_feature,
    "VFIO_DEVICE_BIND_IOMMUFD": vfio.vfio_device_bind_iommufd,
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT": vfio.vfio_device_attach_iommufd_pt,
    "VFIO_DEVICE_DETACH_IOMMUFD_PT": vfio.vfio_device_detach_iommufd_pt,
}
_CONTAINER: dict[str, type[Struct] | None] = {  # the same numbers as some of a device's
    "VFIO_IOMMU_GET_INFO": vfio.vfio_iommu_type1_info,
    "VFIO_IOMMU_MAP_DMA": vfio.vfio_iommu_type1_dma_map,
    "VFIO_IOMMU_UNMAP_DMA": vfio.vfio_iommu_type1_dma_unmap,
    "VFIO_IOMMU_DIRTY_PAGES": vfio.vfio_iommu_type1_dirty_bitmap,
}


def _numbered(table: dict[str, type[Struct] | None]) -> dict[int, Request]:
    homes = (iommufd, vfio)
    found = {}
    for name, struct in table.items():
        number = next(getattr(home, name) for home in homes if hasattr(home, name))
        found[number] = Request(name, struct)
    return found


_OF_DEVICES = {**_numbered(_EITHER), **_numbered(_DEVICE)}
_OF_CONTAINERS = {**_numbered(_EITHER), **_numbered(_CONTAINER)}
_OPERATIONS = {value: name for name, value in vars(iommufd_test).items() if name.startswith("IOMMU_TEST_OP_") and value}


def request_name(path: str, request: int) -> str:
    """The name of an ioctl on the file that was opened as `path` (empty: made by another call)."""
    known = _request(path, request)
    return known.name if known else f"{request:#x}"


def show_ioctl(path: str, request: int, argument: int, read: Read) -> str:
    """A call as text: ``ioctl(IOMMU_IOAS_MAP, {size=40, flags=0x7, ...})``."""
    known = _request(path, request)
    if known is None or known.struct is None:
        return f"ioctl({request_name(path, request)}, {argument:#x})"
    try:
        raw = _read_struct(known.struct, argument, read)
    except OSError:
        return f"ioctl({known.name}, {argument:#x})"
    name = known.name
    if known.struct is iommufd_test.iommu_test_cmd:
        return f"ioctl({name}, {_show_test(raw)})"
    return f"ioctl({name}, {_show(known.struct.from_buffer_copy(raw), field_names(known.struct))})"


def _request(path: str, request: int) -> Request | None:
    if request == iommufd_test.IOMMU_TEST_CMD:
        return Request("IOMMU_TEST_CMD", iommufd_test.iommu_test_cmd)
    device = path.startswith("/dev/vfio/devices/") or not path
    return (_OF_DEVICES if device else _OF_CONTAINERS).get(request)


def _read_struct(struct: type[Struct], address: int, read: Read) -> bytes:
    """The structure, as much of it as its first word says that there is; the rest zero."""
    full = ctypes.sizeof(struct)
    size = int.from_bytes(read(address, 4), "little")
    length = size if 4 <= size <= full else full
    return read(address, length) + bytes(full - length)


def _show_test(raw: bytes) -> str:
    command = iommufd_test.iommu_test_cmd.from_buffer_copy(raw)
    operation = _OPERATIONS.get(command.op, str(command.op))
    member = operation.removeprefix("IOMMU_TEST_OP_").lower().removeprefix("md_")
    fields = f"op={operation}, id={command.id}"
    inner = getattr(command, member, None)
    if isinstance(inner, Struct):
        fields += f", {_show(inner, field_names(type(inner)))[1:-1]}"
    return f"{{{fields}}}"


def _show(struct: Struct, names: tuple[str, ...]) -> str:
    shown = []
    for name in names:
        value = getattr(struct, name)
        if "reserved" in name and not value:
            continue
        shown.append(f"{name}={_value(value)}")
    return f"{{{', '.join(shown)}}}"


def _value(value: int | Struct | Array[ctypes.c_uint8]) -> str:
    if isinstance(value, int):
        return str(value) if value < 4096 else f"{value:#x}"
    return _show(value, field_names(type(value))) if isinstance(value, Struct) else repr(list(value))
