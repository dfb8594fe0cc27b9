"""What `ls` and the doctor see of machines with several IOMMUs that are not alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ioas.inspect import Case, Diagnosis, Wanted, diagnose, looked_at, take
from ioas.inspect.machine import Machine
from tests.inspect.describe import Pc
from tests.support.lab import EDU

MIXED = f"""
[[unit]]
[[unit]]
address_width = 39
[[unit]]
kind = "amd"
address_width = 57
[[unit]]
scalable = true
{EDU}
{EDU}unit = "dmar1"
{EDU}unit = "ivhd0"
{EDU}unit = "dmar2"
"""


@contextmanager
def looked_at_file(tmp_path: Path, text: str) -> Iterator[Machine]:
    file = tmp_path / "lab.toml"
    file.write_text(text)
    with looked_at(file) as machine:
        yield machine


def ask(machine: Machine, number: int, **wanted: object) -> Diagnosis:
    return diagnose(Case(machine, f"0000:{number:02x}:00.0", "driver", Wanted(**wanted)))  # type: ignore[arg-type]


def finding(diagnosis: Diagnosis, name: str) -> tuple[str, str, str | None]:
    """Verdict, text and culprit of one check."""
    found = dict(diagnosis.findings)[name]
    return found.verdict, found.text, found.culprit


def test_each_unit_is_shown_with_its_width_and_its_devices(tmp_path: Path) -> None:
    with looked_at_file(tmp_path, MIXED) as machine:
        inventory = take(machine)
    assert [(unit.name, unit.kind, unit.bits) for unit in inventory.units] == [
        ("dmar0", "VT-d", 48),
        ("dmar1", "VT-d", 39),
        ("dmar2", "VT-d", 48),
        ("ivhd0", "AMD-Vi", 57),
    ]
    behind = {function.bdf: function.unit for function in inventory.functions if function.bdf.endswith(":00.0")}
    assert behind == {
        "0000:00:00.0": "dmar0",
        "0000:01:00.0": "dmar0",
        "0000:02:00.0": "dmar1",
        "0000:03:00.0": "ivhd0",
        "0000:04:00.0": "dmar2",
    }


@pytest.mark.parametrize(
    ("number", "last", "verdict", "culprit"),
    [
        (1, (1 << 48) - 1, "ok", None),
        (1, 1 << 48, "no", "unit dmar0"),
        (2, (1 << 39) - 1, "ok", None),
        (2, 1 << 39, "no", "unit dmar1"),
        (3, (1 << 57) - 1, "ok", None),
        (4, (1 << 47) - 1, "ok", None),
        (4, 1 << 47, "warning", "unit dmar2"),
        (4, 1 << 48, "no", "unit dmar2"),
    ],
)
def test_the_aperture_is_that_of_the_unit_before_the_device(
    tmp_path: Path, number: int, last: int, verdict: str, culprit: str | None
) -> None:
    with looked_at_file(tmp_path, MIXED) as machine:
        found = finding(ask(machine, number, iova=(last - 4095, last)), "aperture")
    assert (found[0], found[2]) == (verdict, culprit)


def test_one_unit_without_interrupt_remapping_takes_it_from_all_of_its_kind(tmp_path: Path) -> None:
    text = f"[[unit]]\n[[unit]]\ninterrupt_remapping = false\n{EDU}{EDU}unit = 'dmar1'\n"
    with looked_at_file(tmp_path, text) as machine:
        for number in (1, 2):
            assert finding(ask(machine, number), "interrupts")[::2] == ("no", "unit dmar1")
    with looked_at_file(tmp_path, f"[machine]\nallow_unsafe_interrupts = true\n{text}") as machine:
        verdict, words, _ = finding(ask(machine, 1), "interrupts")
    assert verdict == "warning"
    assert "iommufd and vfio_iommu_type1" in words


def test_a_region_that_firmware_wants_mapped_at_all_times_is_to_blame(tmp_path: Path) -> None:
    region = "reserved = [{ start = 0x7b800000, last = 0x7fffffff, kind = 'direct' }]"
    with looked_at_file(tmp_path, f"{EDU}{EDU}{region}\n") as machine:
        diagnosis = ask(machine, 2)
        healthy = ask(machine, 1)
    assert diagnosis.answer == "no"
    assert finding(diagnosis, "reserved IOVA")[2] == "reserved region 0x7b800000 to 0x7fffffff of group 4"
    assert healthy.answer == "yes"


def test_the_hosts_driver_of_a_sibling_is_to_blame(tmp_path: Path) -> None:
    text = f"{EDU}addr = '01:00.0'\n{EDU}addr = '01:00.1'\ndriver = 'snd_hda_intel'\n"
    with looked_at_file(tmp_path, text) as machine:
        verdict, words, culprit = finding(ask(machine, 1), "group")
    assert (verdict, culprit) == ("no", "device 0000:01:00.1")
    assert "snd_hda_intel" in words


def test_a_device_that_firmware_has_left_out_is_told_so(tmp_path: Path) -> None:
    with looked_at_file(tmp_path, f"{EDU}{EDU}unit = 'none'\n") as machine:
        verdict, words, culprit = finding(ask(machine, 2), "IOMMU")
    assert (verdict, culprit) == ("no", "device 0000:02:00.0")
    assert "none is in front of this device" in words


@pytest.mark.parametrize(
    ("width", "levels", "bits"),
    [
        (39, 0b00010, 39),
        (48, 0b00110, 48),
        (48, 0b00010, 39),
        (42, 0b00100, 42),
        (57, 0b01100, 57),
        (57, 0b00100, 48),
        (52, 0b01000, 52),
        (48, 0b00001, None),
    ],
)
def test_width_and_levels_of_a_vtd_unit_both_limit_its_bits(width: int, levels: int, bits: int | None) -> None:
    pc = Pc()
    pc.unit("dmar7", width - 1 << 16 | levels << 8, 0)
    (unit,) = [unit for unit in take(pc.machine()).units if unit.name == "dmar7"]
    assert unit.bits == bits


@pytest.mark.parametrize(("features", "bits"), [("0", 48), ("400", 57), ("800:0", 64), ("c00:0", None), ("x", None)])
def test_an_amd_units_bits_are_those_of_its_levels(features: str, bits: int | None) -> None:
    pc = Pc()
    pc.texts("/sys/devices/pci0000:00/0000:00:00.2/iommu/ivhd7/amd-iommu", {"cap": "0", "features": features})
    pc.link("/sys/class/iommu/ivhd7", "/sys/devices/pci0000:00/0000:00:00.2/iommu/ivhd7")
    (unit,) = [unit for unit in take(pc.machine()).units if unit.name == "ivhd7"]
    assert (unit.kind, unit.bits) == ("AMD-Vi", bits)
