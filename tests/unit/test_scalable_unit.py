"""A VT-d unit in scalable mode, against what Linux 7.3.4 answered behind one.

Asked once in the reference guest, with ``intel-iommu,intremap=on,caching-mode=on,x-scalable-mode=on,x-flts=on`` of QEMU
10 for its IOMMU and edu before it. QEMU's has first stages alone and no PASIDs, so that nesting is not in the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.support.lab import EDU, Lab, lab
from tests.support.small_unit import Answer, ranges, tried

LINUX: list[Answer] = [
    ("ranges", [(0, 0xFEDF_FFFF), (0xFEF0_0000, 0x7FFF_FFFF_FFFF)]),
    ("alignment", 4096),
    ("map the last page", None),
    ("map beyond", "EINVAL"),
    ("table that tracks dirty pages", "EOPNOTSUPP"),
    ("table for PASIDs", [(0, 0x7FFF_FFFF_FFFF)]),
    ("PASID of a device without any", None),
    ("attach with a mapping at 1 TiB", None),
]


def answers(machine: Lab) -> Iterator[Answer]:
    iommufd, device, space = machine.iommufd, machine.device(1), machine.iommufd.ioas()
    device.attach(space)
    yield "ranges", ranges(space)
    yield "alignment", space.alignment
    yield "map the last page", tried(lambda: space.alloc(4096, iova=0x7FFF_FFFF_F000))
    yield "map beyond", tried(lambda: space.alloc(4096, iova=0x8000_0000_0000))
    yield "table that tracks dirty pages", tried(lambda: iommufd.hwpt(device, iommufd.ioas(), dirty=True))
    for_pasids = iommufd.ioas()
    table = iommufd.hwpt(device, for_pasids, pasid=True)
    yield "table for PASIDs", ranges(for_pasids)
    device.attach(table)
    yield "PASID of a device without any", tried(lambda: device.attach(table, 5))
    device.detach(5)
    high = iommufd.ioas()
    high.alloc(4096, iova=1 << 40)
    yield "attach with a mapping at 1 TiB", tried(lambda: device.attach(high))


def test_a_scalable_unit_answers_as_linux_does(tmp_path: Path) -> None:
    with lab(tmp_path, "[[unit]]\nscalable = true\n" + EDU) as machine:
        assert list(answers(machine)) == LINUX


def test_a_unit_in_legacy_mode_does_not(tmp_path: Path) -> None:
    """Or the questions would tell nothing."""
    with lab(tmp_path, EDU) as machine:
        assert list(answers(machine)) != LINUX
