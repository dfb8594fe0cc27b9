"""The doctor's answers about real machines: captures of the reference guest, Linux 7.3 with edu, an NVMe disk and igb.

Made in each kind of guest, with everything bound to vfio-pci and again with the disk given back to its driver, by
``python -m tools.reference run --variant NAME --output PLACE -- python -m ioas doctor --capture PLACE/NAME.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from ioas.inspect import Case, Purpose, Wanted, check_bdf, diagnose, looked_at, take

CAPTURES = Path(__file__).parent / "captures"
EDU, DISK, NETWORK = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"
DEVICES = (EDU, DISK, NETWORK)
HIGH = (1 << 39, (1 << 39) + 0xFFF)
"""Beyond 39 bits."""


class Question(NamedTuple):
    """About which device, for what, and wanting which IOVA; what is to blame, by check (empty: the answer is yes)."""

    capture: str
    bdf: str
    purpose: Purpose
    iova: tuple[int, int] | None
    blamed: dict[str, str]


IS_HELD = {"driver": "driver nvme"}
NO_IOMMU = {"IOMMU": "firmware setting of VT-d, AMD-Vi or IOMMU"}
UNSAFE = {"interrupts": "unit dmar0"}
"""The small IOMMU remaps no interrupts either."""
GROUPS = {EDU: "group 1", DISK: "group 2", NETWORK: "group 3"}
QUESTIONS = [
    *(Question("iommu", bdf, "vm", None, {}) for bdf in DEVICES),
    *(Question("iommu", bdf, "driver", HIGH, {}) for bdf in DEVICES),
    *(Question("iommu", bdf, "noiommu", None, {"no-IOMMU mode": group}) for bdf, group in GROUPS.items()),
    *(Question("iommu-with-its-driver", bdf, "driver", None, {}) for bdf in (EDU, NETWORK)),
    Question("iommu-with-its-driver", DISK, "driver", None, IS_HELD),
    *(Question("small-iommu", bdf, "vm", None, UNSAFE) for bdf in DEVICES),
    *(Question("small-iommu", bdf, "driver", HIGH, {**UNSAFE, "aperture": "unit dmar0"}) for bdf in DEVICES),
    Question("small-iommu-with-its-driver", DISK, "driver", None, {**UNSAFE, **IS_HELD}),
    *(Question("noiommu", bdf, "vm", None, NO_IOMMU) for bdf in DEVICES),
    *(Question("noiommu", bdf, "noiommu", None, {}) for bdf in DEVICES),
    Question("noiommu-with-its-driver", DISK, "noiommu", None, IS_HELD),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda one: f"{one.capture}-{one.bdf}-{one.purpose}")
def test_what_is_wrong_is_blamed_and_nothing_else(question: Question) -> None:
    with looked_at(CAPTURES / f"{question.capture}.json") as machine:
        bdf = check_bdf(machine, question.bdf)
        diagnosis = diagnose(Case(machine, bdf, question.purpose, Wanted(iova=question.iova)))
    assert {name: finding.culprit for name, finding in diagnosis.of("no")} == question.blamed
    assert diagnosis.answer == ("no" if question.blamed else "yes")


def test_a_reserved_region_of_a_real_unit_is_named() -> None:
    with looked_at(CAPTURES / "iommu.json") as machine:
        diagnosis = diagnose(Case(machine, EDU, "driver", Wanted(iova=(0xFEDF0000, 0xFEE00FFF))))
    [(name, finding)] = diagnosis.of("no")
    assert (name, finding.culprit) == ("reserved IOVA", "reserved region 0xfee00000 to 0xfeefffff of group 1")


@pytest.mark.parametrize("file", sorted(CAPTURES.glob("*.json")), ids=lambda file: file.stem)
def test_every_function_has_its_place(file: Path) -> None:
    with looked_at(file) as machine:
        inventory = take(machine)
        assert machine.unreadable == {}
    found = {one.bdf: one for one in inventory.functions}
    assert set(DEVICES) <= found.keys()
    disk = "nvme" if file.stem.endswith("driver") else "vfio-pci"
    assert [found[bdf].driver for bdf in DEVICES] == ["vfio-pci", disk, "vfio-pci"]
    bits = {unit.name: unit.bits for unit in inventory.units}.get("dmar0")
    assert bits == {"iommu": 48, "small": 39, "noiommu": None}[file.stem.split("-")[0]]
