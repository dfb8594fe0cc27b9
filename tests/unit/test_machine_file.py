"""Machine files and --device texts: what they mean, and how wrong ones are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ioas.errors import MachineError, UsageError
from ioas.soft.host import DeviceDescription, load_machine, parse_device
from ioas.soft.host.description import UnitDescription
from ioas.soft.host.machine_file import parse_machine

WHOLE = """
[machine]
isolation = "kernel"

[iommu]
kind = "amd"
address_width = 39
force_aperture = false

[[device]]
model = "edu"

[[device]]
model = "edu"
addr = "05:00.0"
options = { dma_mask = 0xff, loud = true }
"""


def test_a_machine_file_describes_unit_policy_and_devices() -> None:
    machine = parse_machine(WHOLE, "lab.toml")
    assert machine.isolation == "kernel"
    assert machine.units == (UnitDescription("amd", 39, force_aperture=False, name="ivhd0"),)
    assert machine.devices == (
        DeviceDescription("edu", None, {}, "lab.toml:10", in_file=True),
        DeviceDescription("edu", "0000:05:00.0", {"dma_mask": 0xFF, "loud": True}, "lab.toml:13", in_file=True),
    )


def test_a_unit_may_be_in_scalable_mode() -> None:
    assert parse_machine("[iommu]\nscalable = true").units == (UnitDescription(scalable=True, name="dmar0"),)


def test_an_empty_machine_file_is_a_machine_without_devices() -> None:
    machine = parse_machine("")
    assert (machine.devices, machine.isolation, machine.units) == (
        (),
        "strict",
        (UnitDescription("vt-d", 48, name="dmar0"),),
    )


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("[machine]\n\n# c\nisolation = 1", 4, "isolation"),
        ('[machine]\nisolation = "loose"', 2, "isolation"),
        ("[machine]\nisolatio = 1", 2, "isolatio"),
        ("[machines]", 1, "machines"),
        ('name = "lab"\n[machine]', 1, "name"),
        ("machine = 3", 1, "machine"),
        ('[iommu]\nkind = "arm"', 2, "kind"),
        ("[iommu]\naddress_width = 56", 2, "address_width"),
        ('[iommu]\naddress_width = "48"', 2, "address_width"),
        ("[iommu]\nforce_aperture = 1", 2, "force_aperture"),
        ("[iommu]\nscalable = 1", 2, "scalable"),
        ('[iommu]\nkind = "amd"\nscalable = true', 3, "scalable"),
        ("device = []\niommu = 4", 2, "iommu"),
        ("device = 4", 1, "device"),
        ("device = [4]", 1, "device"),
        ("[[device]]\n", 1, "model"),
        ("[[device]]\nmodel = 3", 2, "model"),
        ('[[device]]\nmodel = "edu"\n\n[[device]]\nmodel = "edu"\nadr = "x"', 6, "adr"),
        ('[[device]]\nmodel = "edu"\naddr = "x"', 3, "addr"),
        ('[[device]]\nmodel = "edu"\naddr = 5', 3, "addr"),
        ('[[device]]\nmodel = "edu"\noptions = 5', 3, "options"),
        ('[[device]]\nmodel = "edu"\n[device.options]\nfine = 1\nlist = [\n 1,\n]', 5, "list"),
        ('[[device]]\nmodel = """\nedu"""\nx = 1', 4, "x"),
        ("[machine]\na=1\na=2", 3, "TOML"),
        ("[machine]\nisolation = ", 2, "TOML"),
        ('[machine]\nisolation = "', 2, "TOML"),
    ],
)
def test_what_is_wrong_in_a_machine_file_is_named_with_file_line_and_key(text: str, line: int, key: str) -> None:
    with pytest.raises(MachineError, match=rf"^lab\.toml:{line}: .*{re.escape(key)}") as info:
        parse_machine(text, "lab.toml")
    assert "\n" not in str(info.value)


def test_a_number_that_is_too_long_to_read_is_refused() -> None:
    with pytest.raises(MachineError, match=r"lab\.toml.*digits"):
        parse_machine(f"[iommu]\naddress_width = {'9' * 5000}", "lab.toml")
    with pytest.raises(MachineError, match=r"lab\.toml:3: .*page_sizes"):
        parse_machine(f"[iommu]\nkind = 'amd'\npage_sizes = ['4K', '{'9' * 5000}K']", "lab.toml")


def test_a_machine_file_that_is_nested_without_end_is_refused() -> None:
    with pytest.raises(MachineError, match=r"lab\.toml.*nested"):
        parse_machine("a = " + "[" * 100_000, "lab.toml")


def test_a_machine_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"missing\.toml"):
        load_machine(tmp_path / "missing.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(MachineError, match=r"binary\.toml"):
        load_machine(binary)


def test_a_device_text_is_a_model_with_an_address_and_options() -> None:
    assert parse_device("edu") == DeviceDescription("edu", None, {}, "--device edu")
    parsed = parse_device("nvme,addr=0a:00.1,size=64M,name=a=b")
    assert (parsed.model, parsed.address, parsed.options) == ("nvme", "0000:0a:00.1", {"size": "64M", "name": "a=b"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "model"),
        (",addr=05:00.0", "model"),
        ("edu,", "''"),
        ("edu,x", "'x'"),
        ("edu,=3", "'=3'"),
        ("edu,a=1,a=2", "twice"),
        ("edu,addr=5", "'5'"),
        ("edu,addr=0000:05:20.0", "1f"),
    ],
)
def test_a_wrong_device_text_is_refused_by_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as info:
        parse_device(text)
    assert str(info.value).startswith(f"--device {text}")
