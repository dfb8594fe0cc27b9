"""The doctor's answers: one machine for each classic refusal, and healthy ones that it must not blame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ioas.inspect import Case, Diagnosis, Node, Purpose, Wanted, diagnose, looked_at
from tests.inspect.cases import (
    HEALTHY,
    REFUSALS,
    Refusal,
    bound_sibling,
    group_alone,
    remapping_off,
    switch_without_acs,
)
from tests.inspect.describe import DISK, PORTS, Pc


def ask(pc: Pc, bdf: str = DISK, purpose: Purpose = "driver", **wanted: object) -> Diagnosis:
    return diagnose(Case(pc.machine(), bdf, purpose, Wanted(**wanted)))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case.change.__name__}-{case.check}-{case.verdict}")
def test_what_is_wrong_is_named_with_its_culprit_and_remedy(case: Refusal) -> None:
    pc = Pc()
    case.change(pc)
    diagnosis = ask(pc, DISK, case.purpose, **case.wanted)
    finding = dict(diagnosis.findings)[case.check]
    assert (finding.verdict, finding.culprit) == (case.verdict, case.culprit)
    assert any(words in (finding.remedy or "") for words in case.remedy.split("|"))
    assert diagnosis.answer == ("no" if case.verdict == "no" else "yes")
    assert finding.check is not None or case.verdict == "warning" or case.check == "isolation"


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case.change.__name__}-{case.check}-{case.verdict}")
def test_nothing_else_is_blamed(case: Refusal) -> None:
    pc = Pc()
    case.change(pc)
    blamed = {name for name, found in ask(pc, DISK, case.purpose, **case.wanted).findings if found.verdict == "no"}
    # Who has no IOMMU, or no vfio-pci, has not bound the device either; a user without nodes may not pin much.
    follows = {"driver"} if case.check in ("IOMMU", "vfio-pci", "no-IOMMU mode") else set()
    assert blamed - follows == ({case.check} if case.verdict == "no" else set())


@pytest.mark.parametrize("purpose", ["vm", "driver"])
@pytest.mark.parametrize("change", HEALTHY)
def test_a_healthy_machine_is_not_blamed(change: Callable[[Pc], None], purpose: Purpose) -> None:
    pc = Pc()
    change(pc)
    diagnosis = ask(pc, DISK, purpose, iova=(0x10000, 0xFFFFF), memory=4 << 30)
    assert [(name, found) for name, found in diagnosis.findings if found.verdict != "ok"] == []
    assert diagnosis.answer == "yes"
    assert DISK in diagnosis.how[0]


def test_what_nothing_tells_is_not_blamed() -> None:
    pc = Pc()
    remapping_off(pc)
    pc.remove("/sys/devices/virtual/iommu/dmar0/intel-iommu")  # an IOMMU of another make
    diagnosis = ask(pc)
    assert [(name, found.verdict) for name, found in diagnosis.findings if found.verdict != "ok"] == [
        ("interrupts", "unknown")
    ]
    assert diagnosis.answer == "yes"


def test_a_bridge_is_not_for_vfio() -> None:
    finding = dict(ask(Pc(), PORTS[DISK]).findings)["driver"]
    assert (finding.verdict, finding.culprit, finding.commands) == ("no", f"device {PORTS[DISK]}", ())


def test_how_to_go_on_is_said_by_the_way_that_is_open() -> None:
    pc = Pc()
    assert ask(pc, purpose="vm").how[0].endswith(f"-object iommufd,id=i0 -device vfio-pci,host={DISK},iommufd=i0")
    assert ask(pc).how == (
        f'ioas.KernelHost().device("{DISK}").space()',
        "nodes: /dev/vfio/devices/vfio0 and /dev/iommu",
    )
    group_alone(pc)
    assert ask(pc, purpose="vm").how[0].endswith(f" -device vfio-pci,host={DISK}")
    assert ask(pc).how == (
        f'ioas.KernelHost().device("{DISK}", via="group").space()',
        "nodes: /dev/vfio/3 and /dev/vfio/vfio",
    )


def test_no_iommu_mode_that_is_on_is_possible_and_a_warning() -> None:
    pc = Pc()
    pc.no_iommu()
    pc.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
    pc.driver(DISK, "vfio-pci")
    pc.text(f"{pc.path(DISK)}/vfio-dev/noiommu-vfio0/dev", "511:0")
    pc.nodes["/dev/vfio/devices/noiommu-vfio0"] = Node(0o600, 0, 0)
    diagnosis = ask(pc, DISK, "noiommu")
    assert [(name, found.verdict) for name, found in diagnosis.findings if found.verdict != "ok"] == [
        ("no-IOMMU mode", "warning")
    ]
    assert diagnosis.how[1] == "nodes: /dev/vfio/devices/noiommu-vfio0 and /dev/iommu"


def test_what_is_advised_names_every_sibling_that_is_in_the_way() -> None:
    pc = Pc()
    bound_sibling(pc)
    finding = dict(ask(pc).findings)["group"]
    assert finding.commands == (
        "echo vfio-pci > /sys/bus/pci/devices/0000:01:00.1/driver_override",
        "echo 0000:01:00.1 > /sys/bus/pci/devices/0000:01:00.1/driver/unbind",
        "echo 0000:01:00.1 > /sys/bus/pci/drivers_probe",
    )


def test_a_user_who_may_not_read_configuration_space_hears_of_the_sibling_alone() -> None:
    pc = Pc()
    switch_without_acs(pc)
    for bdf in (DISK, PORTS[DISK]):
        pc.text(f"{pc.path(bdf)}/config", bytes(64))
    finding = dict(ask(pc).findings)["group"]
    assert finding.culprit == "device 0000:05:00.0"
    assert "ACS" not in finding.text


def test_a_diagnosis_as_json_names_its_schema() -> None:
    data = ask(Pc()).as_json()
    assert (data["schema"], data["version"], data["answer"]) == ("ioas.doctor", 1, "yes")
    assert {"name", "verdict", "text", "culprit", "remedy", "commands", "check"} == set(data["findings"][0])  # type: ignore[index]


def test_a_software_machine_whose_unit_can_be_passed_by_is_told(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    for policy, answer in (("strict", "no"), ("kernel", "yes")):
        file.write_text(
            f'[machine]\nisolation = "{policy}"\n[iommu]\nforce_aperture = false\n[[device]]\nmodel = "edu"\n'
        )
        with looked_at(file) as machine:
            diagnosis = diagnose(Case(machine, "0000:01:00.0", "driver", Wanted()))
        assert diagnosis.answer == answer
        assert "untranslated" in dict(diagnosis.findings)["isolation"].text
