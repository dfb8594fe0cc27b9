"""Dirty tracking where units differ: VT-d's second stages in scalable mode, AMD's host tables, and units without."""

from __future__ import annotations

from pathlib import Path

import pytest

from ioas.api import Hwpt
from ioas.errors import InvalidArgument, NotSupported
from ioas.uapi.iommufd import IOMMU_HW_CAP_DIRTY_TRACKING, iommu_hw_info_amd, iommu_hw_info_vtd
from tests.support.lab import EDU, Lab, lab

IOVA = 0x10_0000
TRACKING = {
    "vt-d": "scalable = true\ndirty_tracking = true\n",
    "vt-d, 57 bits": "scalable = true\ndirty_tracking = true\naddress_width = 57\n",
    "amd": 'kind = "amd"\n',
}
WITHOUT = {"vt-d": "", "vt-d, scalable": "scalable = true\n", "amd": 'kind = "amd"\ndirty_tracking = false\n'}


def dirty(table: Hwpt) -> list[int]:
    """The numbers of the pages that are dirty, which are clean afterwards."""
    bits = int.from_bytes(table.dirty(IOVA, 8 * 4096), "little")
    return [page for page in range(8) if bits >> page & 1]


@pytest.mark.parametrize("unit", TRACKING.values(), ids=TRACKING)
def test_pages_that_a_device_writes_to_are_told(tmp_path: Path, unit: str) -> None:
    with lab(tmp_path, f"[[unit]]\n{unit}" + EDU) as machine:
        device, space = machine.device(1), machine.iommufd.ioas()
        assert device.hw_info().capabilities & IOMMU_HW_CAP_DIRTY_TRACKING
        table = machine.iommufd.hwpt(device, space, dirty=True)
        device.attach(table)
        space.alloc(8 * 4096, writable=True, iova=IOVA)
        write = machine.function(1).dma.write
        write(IOVA, b"before")
        table.track_dirty(True)
        assert dirty(table) == []
        write(IOVA + 2 * 4096 - 1, b"xy")
        machine.function(1).dma.read(IOVA + 5 * 4096, 8)
        assert dirty(table) == [1, 2]
        assert dirty(table) == []
        write(IOVA + 7 * 4096, b"z")
        assert dirty(table) == [7]
        device.detach()
        table.close()


@pytest.mark.parametrize("unit", WITHOUT.values(), ids=WITHOUT)
def test_units_without_it_say_so_and_refuse_such_tables(tmp_path: Path, unit: str) -> None:
    with lab(tmp_path, f"[[unit]]\n{unit}" + EDU) as machine:
        device = machine.device(1)
        assert not device.hw_info().capabilities & IOMMU_HW_CAP_DIRTY_TRACKING
        with pytest.raises(NotSupported, match="does not track dirty pages"):
            machine.iommufd.hwpt(device, machine.iommufd.ioas(), dirty=True)


def registers(machine: Lab) -> tuple[int, int]:
    """SSADS of a VT-d unit, HDSup of an AMD one."""
    info = machine.device(1).hw_info()
    if len(info.data) == 24:
        return iommu_hw_info_vtd.from_buffer_copy(info.data).ecap_reg >> 45 & 1, 0
    return 0, iommu_hw_info_amd.from_buffer_copy(info.data).efr >> 52 & 1


@pytest.mark.parametrize(
    ("unit", "bits"),
    [
        (TRACKING["vt-d"], (1, 0)),
        (TRACKING["amd"], (0, 1)),
        *((unit, (0, 0)) for unit in WITHOUT.values()),
    ],
)
def test_registers_tell_it(tmp_path: Path, unit: str, bits: tuple[int, int]) -> None:
    with lab(tmp_path, f"[[unit]]\n{unit}" + EDU) as machine:
        assert registers(machine) == bits


def test_a_table_that_tracks_is_refused_by_a_unit_that_does_not(tmp_path: Path) -> None:
    text = f"[[unit]]\n{TRACKING['vt-d']}[[unit]]\nscalable = true\n" + EDU + EDU + 'unit = "dmar1"\n'
    with lab(tmp_path, text) as machine:
        space = machine.iommufd.ioas()
        table = machine.iommufd.hwpt(machine.device(1), space, dirty=True)
        with pytest.raises(InvalidArgument, match=r"0000:02:00\.0 stands behind dmar1: the domain tracks dirty pages"):
            machine.device(2).attach(table)
        machine.device(2).attach(space)


def test_one_amd_unit_without_it_takes_it_from_all(tmp_path: Path) -> None:
    text = '[[unit]]\nkind = "amd"\n[[unit]]\nkind = "amd"\ndirty_tracking = false\n' + EDU
    with lab(tmp_path, text) as machine:
        assert registers(machine) == (0, 0)


def test_a_table_that_tracks_is_a_second_stage_of_the_whole_width(tmp_path: Path) -> None:
    with lab(tmp_path, f"[[unit]]\n{TRACKING['vt-d']}" + EDU) as machine:
        space = machine.iommufd.ioas()
        table = machine.iommufd.hwpt(machine.device(1), space, dirty=True)
        machine.device(1).attach(table)
        domain = machine.function(1).requester.domain
        assert domain is not None
        assert space.ranges()[-1].last == domain.geometry.last == (1 << 48) - 1
        machine.device(1).attach(space)
        assert space.ranges()[-1].last == (1 << 47) - 1
