"""Groups behind unlike IOMMUs in one container of VFIO's own: what all can do, and who stands in the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import ioas
from ioas.api import Container
from ioas.api.container_space import ContainerSpace
from ioas.errors import InvalidArgument, NotPermitted
from ioas.soft.pci import Function
from ioas.uapi.vfio import VFIO_DMA_CC_IOMMU
from tests.support.lab import EDU

LAST = {bits: (1 << bits) - 1 for bits in (39, 47, 48)}
MSI = (0xFEE0_0000, 0xFEEF_FFFF)
BEHIND_1 = EDU + 'unit = "dmar1"\n'
SMALL_AND_BIG = "[[unit]]\n[[unit]]\naddress_width = 39\n" + EDU + BEHIND_1


class Rig:
    """A machine and an open container."""

    def __init__(self, host: ioas.SoftHost, container: Container) -> None:
        self.host, self.container = host, container
        self._open: dict[int, ExitStack] = {}

    def take(self, number: int) -> None:
        """The device at NUMBER:00.0, by way of its group, into the container."""
        with ExitStack() as stack:
            device = stack.enter_context(self.host.device(f"0000:{number:02x}:00.0", via="group"))
            device.bind(self.container)
            device.bus_master = True
            self._open[number] = stack.pop_all()

    def give_back(self, *numbers: int) -> None:
        for number in numbers or tuple(self._open):
            self._open.pop(number).close()

    def function(self, number: int) -> Function:
        return self.host.machine.functions[f"0000:{number:02x}:00.0"]

    @property
    def space(self) -> ContainerSpace:
        space = self.container.ioas()
        assert isinstance(space, ContainerSpace)
        return space

    def ranges(self) -> list[tuple[int, int]]:
        return [(found.start, found.last) for found in self.space.ranges()]


@contextmanager
def rig(directory: Path, text: str) -> Iterator[Rig]:
    file = directory / "lab.toml"
    file.write_text(text)
    with ioas.SoftHost(machine=file) as host, host.container("type1v2") as container:
        made = Rig(host, container)
        yield made
        made.give_back()


def window(last: int) -> list[tuple[int, int]]:
    return [(0, MSI[0] - 1), (MSI[1] + 1, last)]


def test_the_ranges_narrow_with_a_group_and_widen_when_it_leaves(tmp_path: Path) -> None:
    with rig(tmp_path, SMALL_AND_BIG) as machine:
        machine.take(1)
        assert machine.ranges() == window(LAST[48])
        machine.take(2)
        assert machine.ranges() == window(LAST[39])
        page = machine.space.alloc(4096, writable=True, iova=LAST[39] - 4095)
        assert machine.function(1).dma.write(page.iova, b"both")
        assert machine.function(2).dma.read(page.iova, 4) == b"both"
        with pytest.raises(InvalidArgument):
            machine.space.alloc(4096, iova=LAST[39] + 1)
        machine.give_back(2)
        assert machine.ranges() == window(LAST[48])


def test_what_is_mapped_beyond_the_new_groups_iommu_keeps_it_out_by_name(tmp_path: Path) -> None:
    with rig(tmp_path, SMALL_AND_BIG) as machine:
        machine.take(1)
        high = machine.space.alloc(1 << 21, iova=1 << 40)
        with pytest.raises(InvalidArgument, match=r"dmar1 before 0000:02:00\.0 translates 0x0-0x7fffffffff") as info:
            machine.take(2)
        assert "0x10000000000" in info.value.refusal.reason
        assert machine.ranges() == window(LAST[48])
        high.close()
        machine.take(2)


def test_what_is_mapped_in_a_region_of_the_new_group_keeps_it_out_by_name(tmp_path: Path) -> None:
    region = "reserved = [{ start = 0x80000000, last = 0x800fffff }]\n"
    with rig(tmp_path, EDU + EDU + region) as machine:
        machine.take(1)
        machine.space.alloc(4096, iova=0x8000_1000)
        with pytest.raises(InvalidArgument, match=r"a reserved region of 0000:02:00\.0") as info:
            machine.take(2)
        assert str(info.value.refusal.culprit) == "region 0x80000000-0x800fffff"


def test_without_interrupt_remapping_the_parameter_of_the_container_decides(tmp_path: Path) -> None:
    with rig(tmp_path, "[[unit]]\ninterrupt_remapping = false\n" + EDU) as machine:
        tree = machine.host.machine.tree
        tree.write("/sys/module/iommufd/parameters/allow_unsafe_interrupts", b"Y")
        with pytest.raises(NotPermitted, match="allow_unsafe_interrupts of vfio_iommu_type1 is off"):
            machine.take(1)
        tree.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", b"Y")
        machine.take(1)


def test_a_unit_that_can_be_bypassed_is_refused_beside_one_that_cannot(tmp_path: Path) -> None:
    with rig(tmp_path, "[[unit]]\n[[unit]]\nforce_aperture = false\n" + EDU + BEHIND_1) as machine:
        machine.take(1)
        with pytest.raises(NotPermitted, match="dmar1 lets DMA outside the aperture pass"):
            machine.take(2)
        assert machine.ranges() == window(LAST[48])


def test_coherency_counts_as_enforced_only_where_all_units_can(tmp_path: Path) -> None:
    with rig(tmp_path, "[[unit]]\n[[unit]]\nsnoop_control = false\n" + EDU + BEHIND_1) as machine:
        machine.take(1)
        assert machine.container.extension(VFIO_DMA_CC_IOMMU) == 1
        machine.take(2)
        assert machine.container.extension(VFIO_DMA_CC_IOMMU) == 0
        machine.give_back(2)
        assert machine.container.extension(VFIO_DMA_CC_IOMMU) == 1


@pytest.mark.parametrize(
    ("unit", "last"), [("address_width = 57", LAST[48]), ("scalable = true", LAST[47]), ('kind = "amd"', LAST[48])]
)
def test_units_of_other_kinds_and_modes_have_domains_of_their_own(tmp_path: Path, unit: str, last: int) -> None:
    name = "" if "name" in unit else 'name = "dmar1"\n'
    with rig(tmp_path, f"[[unit]]\n[[unit]]\n{unit}\n{name}" + EDU + BEHIND_1) as machine:
        machine.take(1)
        machine.take(2)
        found = machine.ranges()
        assert found[-1][1] == last
        page = machine.space.alloc(4096, writable=True, iova=found[-1][1] - 4095)
        assert machine.function(2).dma.write(page.iova, b"x")
        assert machine.function(1).dma.read(page.iova, 1) == b"x"


def test_page_sizes_are_those_that_all_have(tmp_path: Path) -> None:
    with rig(tmp_path, '[[unit]]\n[[unit]]\npage_sizes = ["4K", "2M"]\n' + EDU + BEHIND_1) as machine:
        machine.take(1)
        assert machine.container.info().page_sizes == 1 << 12 | 1 << 21 | 1 << 30
        machine.take(2)
        assert machine.container.info().page_sizes == 1 << 12 | 1 << 21
