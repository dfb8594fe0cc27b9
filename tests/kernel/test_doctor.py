"""The doctor on a real kernel: it tells the truth about edu, nvme and igb, and what it advises works as it stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import ioas
from ioas.inspect import Case, Diagnosis, Finding, Purpose, Wanted, diagnose, looked_at
from ioas.inspect.binding import RECORD, carry_out, plan_bind, plan_unbind, plan_undo, write_step

PCI = Path("/sys/bus/pci")
DEVICES = {"edu": (0x1234, 0x11E8), "nvme": (0x1B36, 0x0010), "igb": (0x8086, 0x10C9)}


@pytest.fixture(params=DEVICES)
def bdf(request: pytest.FixtureRequest) -> Iterator[str]:
    """One of the devices that the guest has bound to vfio-pci; bound again afterwards."""
    with ioas.KernelHost() as host:
        found = {(one.vendor, one.device): one.bdf for one in host.sysfs.devices()}
    bdf = found[DEVICES[request.param]]
    yield bdf
    (PCI / "devices" / bdf / "driver_override").write_text("vfio-pci")
    if not (PCI / "drivers/vfio-pci" / bdf).exists():
        if (PCI / "devices" / bdf / "driver").exists():
            (PCI / "devices" / bdf / "driver/unbind").write_text(bdf)
        (PCI / "drivers_probe").write_text(bdf)


def doctor(bdf: str, purpose: Purpose = "driver") -> Diagnosis:
    """The diagnosis, in this process: importing takes the guest seconds."""
    with looked_at(None) as machine:
        return diagnose(Case(machine, bdf, purpose, Wanted()))


def wrong(diagnosis: Diagnosis) -> dict[str, Finding]:
    """What it found wrong, by the name of the check."""
    return dict(diagnosis.of("no"))


def use(bdf: str) -> None:
    """Open the device and give it an address space, as the doctor says that it works."""
    with ioas.KernelHost() as host, host.device(bdf) as device:
        device.space().alloc(4096).close()


def test_a_device_that_vfio_has_can_be_used(bdf: str) -> None:
    assert [finding for _, finding in doctor(bdf).findings if finding.verdict != "ok"] == []
    use(bdf)


def test_the_command_says_the_same() -> None:
    with ioas.KernelHost() as host:
        bdf = host.devices()[0]
    command = [sys.executable, "-m", "ioas", "doctor", bdf, "--for", "driver", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(json.dumps(doctor(bdf).as_json()))


def test_what_is_advised_for_an_unbound_device_makes_it_usable(bdf: str) -> None:
    (PCI / "devices" / bdf / "driver/unbind").write_text(bdf)
    (PCI / "devices" / bdf / "driver_override").write_text("\n")
    [(name, finding)] = wrong(doctor(bdf)).items()
    assert (name, finding.text) == ("driver", "no driver has it")
    run(finding.commands)
    assert doctor(bdf).answer == "yes"
    use(bdf)


def run(commands: Sequence[str]) -> None:
    for command in commands:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_the_kernels_own_driver_of_a_disk_is_named_and_replaced_as_advised() -> None:
    with ioas.KernelHost() as host:
        [bdf] = [one.bdf for one in host.sysfs.devices() if (one.vendor, one.device) == DEVICES["nvme"]]
    (PCI / "devices" / bdf / "driver_override").write_text("nvme")
    (PCI / "devices" / bdf / "driver/unbind").write_text(bdf)
    (PCI / "drivers_probe").write_text(bdf)
    [(name, finding)] = wrong(doctor(bdf)).items()
    assert (name, finding.culprit) == ("driver", "driver nvme")
    run(finding.commands)
    assert doctor(bdf).answer == "yes"
    use(bdf)


def test_a_device_that_a_program_holds_is_in_use(bdf: str) -> None:
    for via in ("cdev", "group"):
        with ioas.KernelHost() as host, host.device(bdf, via) as device:  # type: ignore[arg-type]
            device.space()
            [(name, finding)] = wrong(doctor(bdf)).items()
            assert name == "other users"
            assert f"(pid {os.getpid()})" in finding.culprit
    assert doctor(bdf).answer == "yes"


@pytest.mark.guests("noiommu")
def test_without_an_iommu_only_no_iommu_mode_is_possible(bdf: str) -> None:
    assert wrong(doctor(bdf))["IOMMU"].text == "no IOMMU: the firmware describes none"
    findings = doctor(bdf, "noiommu").findings
    assert [(name, one.verdict) for name, one in findings if one.verdict != "ok"] == [("no-IOMMU mode", "warning")]
    use(bdf)


def test_what_ioas_bind_binds_is_right_before_and_after(bdf: str) -> None:
    """A device without a driver: the doctor's answer, the command, the doctor's answer, and the device in use."""
    (PCI / "devices" / bdf / "driver/unbind").write_text(bdf)
    (PCI / "devices" / bdf / "driver_override").write_text("\n")
    assert list(wrong(doctor(bdf))) == ["driver"]
    command = [sys.executable, "-m", "ioas", "bind", bdf]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{bdf}: no driver -> vfio-pci\n", "")
    assert doctor(bdf).answer == "yes"
    use(bdf)
    with looked_at(None) as machine:
        carry_out(machine, plan_undo(machine, RECORD, bdf), RECORD, write_step)
    assert list(wrong(doctor(bdf))) == ["driver"]


def test_a_disk_is_bound_used_and_given_back_to_its_driver(tmp_path: Path) -> None:
    with ioas.KernelHost() as host, looked_at(None) as machine:
        [bdf] = [one.bdf for one in host.sysfs.devices() if (one.vendor, one.device) == DEVICES["nvme"]]
        device, record = host.sysfs.device(bdf), tmp_path / "bound.json"
        try:
            carry_out(machine, plan_unbind(machine, bdf), record, write_step)
            assert (device.driver, device.driver_override) == ("nvme", None)
            command = [sys.executable, "-m", "ioas", "bind", bdf, "--group"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert (done.returncode, done.stdout, done.stderr) == (0, f"{bdf}: nvme -> vfio-pci\n", "")
            use(bdf)
            carry_out(machine, plan_undo(machine, RECORD), RECORD, write_step)
            assert (device.driver, device.driver_override) == ("nvme", None)
        finally:
            carry_out(machine, plan_bind(machine, bdf), record, write_step)
    assert doctor(bdf).answer == "yes"
