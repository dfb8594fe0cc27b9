"""The command table: every request of iommufd, its handler, its structure, and the last field of its first version.

The last field is what the shortest structure must contain (IOCTL_OP in main.c, 7.3).
"""

from __future__ import annotations

from typing import Any

from ioas.soft.iommufd.compat import vfio_ioas
from ioas.soft.iommufd.dirty import hwpt_get_dirty_bitmap, hwpt_set_dirty_tracking
from ioas.soft.iommufd.dispatch import Call, Command
from ioas.soft.iommufd.fault import fault_queue_alloc
from ioas.soft.iommufd.files import ioas_map_file
from ioas.soft.iommufd.hw_queue import hw_queue_alloc
from ioas.soft.iommufd.hwinfo import get_hw_info
from ioas.soft.iommufd.hwpt_alloc import hwpt_alloc
from ioas.soft.iommufd.ioas import (
    ioas_alloc,
    ioas_allow_iovas,
    ioas_copy,
    ioas_iova_ranges,
    ioas_map,
    ioas_unmap,
)
from ioas.soft.iommufd.nested import hwpt_invalidate
from ioas.soft.iommufd.noiommu import ioas_noiommu_get_pa
from ioas.soft.iommufd.options import option
from ioas.soft.iommufd.process import ioas_change_process
from ioas.soft.iommufd.veventq import veventq_alloc
from ioas.soft.iommufd.viommu import vdevice_alloc, viommu_alloc
from ioas.uapi import iommufd as uapi


def destroy(call: Call[uapi.iommu_destroy]) -> None:
    """IOMMU_DESTROY. Follows iommufd_destroy: ENOENT, EBUSY while something uses the object."""
    call.context.objects.destroy(call.command.id)


_ROWS: tuple[Command[Any], ...] = (
    Command(uapi.IOMMU_DESTROY, destroy, uapi.iommu_destroy, "id"),
    Command(uapi.IOMMU_FAULT_QUEUE_ALLOC, fault_queue_alloc, uapi.iommu_fault_alloc, "out_fault_fd"),
    Command(uapi.IOMMU_GET_HW_INFO, get_hw_info, uapi.iommu_hw_info, "__reserved"),
    Command(uapi.IOMMU_HW_QUEUE_ALLOC, hw_queue_alloc, uapi.iommu_hw_queue_alloc, "length"),
    Command(uapi.IOMMU_HWPT_ALLOC, hwpt_alloc, uapi.iommu_hwpt_alloc, "__reserved"),
    Command(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, hwpt_get_dirty_bitmap, uapi.iommu_hwpt_get_dirty_bitmap, "data"),
    Command(uapi.IOMMU_HWPT_INVALIDATE, hwpt_invalidate, uapi.iommu_hwpt_invalidate, "__reserved"),
    Command(
        uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, hwpt_set_dirty_tracking, uapi.iommu_hwpt_set_dirty_tracking, "__reserved"
    ),
    Command(uapi.IOMMU_IOAS_ALLOC, ioas_alloc, uapi.iommu_ioas_alloc, "out_ioas_id"),
    Command(uapi.IOMMU_IOAS_ALLOW_IOVAS, ioas_allow_iovas, uapi.iommu_ioas_allow_iovas, "allowed_iovas"),
    Command(uapi.IOMMU_IOAS_CHANGE_PROCESS, ioas_change_process, uapi.iommu_ioas_change_process, "__reserved"),
    Command(uapi.IOMMU_IOAS_COPY, ioas_copy, uapi.iommu_ioas_copy, "src_iova"),
    Command(uapi.IOMMU_IOAS_IOVA_RANGES, ioas_iova_ranges, uapi.iommu_ioas_iova_ranges, "out_iova_alignment"),
    Command(uapi.IOMMU_IOAS_MAP, ioas_map, uapi.iommu_ioas_map, "iova"),
    Command(uapi.IOMMU_IOAS_MAP_FILE, ioas_map_file, uapi.iommu_ioas_map_file, "iova"),
    Command(uapi.IOMMU_IOAS_NOIOMMU_GET_PA, ioas_noiommu_get_pa, uapi.iommu_ioas_noiommu_get_pa, "out_phys"),
    Command(uapi.IOMMU_IOAS_UNMAP, ioas_unmap, uapi.iommu_ioas_unmap, "length"),
    Command(uapi.IOMMU_OPTION, option, uapi.iommu_option, "val64"),
    Command(uapi.IOMMU_VDEVICE_ALLOC, vdevice_alloc, uapi.iommu_vdevice_alloc, "virt_id"),
    Command(uapi.IOMMU_VEVENTQ_ALLOC, veventq_alloc, uapi.iommu_veventq_alloc, "out_veventq_fd"),
    Command(uapi.IOMMU_VFIO_IOAS, vfio_ioas, uapi.iommu_vfio_ioas, "__reserved"),
    Command(uapi.IOMMU_VIOMMU_ALLOC, viommu_alloc, uapi.iommu_viommu_alloc, "out_viommu_id"),
)
COMMANDS: dict[int, Command[Any]] = {row.request: row for row in _ROWS}
BASE = uapi.IOMMUFD_CMD_BASE
LAST = max(COMMANDS) & 0xFF
"""Requests whose number (their low byte) is not in `BASE` to `LAST` are looked for among the container's."""
