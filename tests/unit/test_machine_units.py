"""[[unit]] of machine files: what they describe, what is refused, and the machine that is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ioas.errors import MachineError, UsageError
from ioas.soft.host import SoftHost
from ioas.soft.host.description import UnitDescription
from ioas.soft.host.machine_file import parse_machine
from ioas.soft.iommu import ReservedRegion
from tests.support.models import Rich

TWO = """
[[unit]]
address_width = 39
page_sizes = ["4K", "2M"]
snoop_control = false
reserved = [{ start = 0x1000000, last = 0x1ffffff }]

[[unit]]
scalable = true
interrupt_remapping = false

[[device]]
model = "edu"

[[device]]
model = "edu"
unit = "dmar1"
reserved = [{ start = 0x7b800000, last = 0x7fffffff, kind = "direct-relaxable" }]
"""


def test_units_are_named_in_order_and_keep_what_they_were_given() -> None:
    first, second = parse_machine(TWO).units
    assert first == UnitDescription(
        "vt-d",
        39,
        name="dmar0",
        page_sizes=(4096, 1 << 21),
        snoop_control=False,
        reserved=(ReservedRegion(0x100_0000, 0x1FF_FFFF, "reserved"),),
    )
    assert second == UnitDescription(scalable=True, interrupt_remapping=False, name="dmar1")


def test_names_that_are_given_are_not_given_again() -> None:
    text = '[[unit]]\n[[unit]]\nname = "dmar0"\n[[unit]]\nkind = "amd"\n[[unit]]\n'
    assert [unit.name for unit in parse_machine(text).units] == ["dmar1", "dmar0", "ivhd0", "dmar2"]


@pytest.mark.parametrize("text", ["unit = []", '[iommu]\nkind = "none"'])
def test_a_machine_may_have_no_unit(text: str) -> None:
    assert parse_machine(text).units == ()


def test_an_amd_unit_takes_any_power_of_two_as_page_size() -> None:
    (unit,) = parse_machine('[[unit]]\nkind = "amd"\npage_sizes = ["64K", "4K", "4M"]').units
    assert unit.page_sizes == (1 << 12, 1 << 16, 1 << 22)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[iommu]\n[[unit]]", 1, "[iommu] describes the only unit"),
        ("unit = 4", 1, "[[unit]] is a list of tables"),
        ("unit = [4]", 1, "[[unit]] is a table"),
        ("[[unit]]\nwidth = 3", 2, "key 'width' of [[unit]] is unknown"),
        ("[[unit]]\naddress_width = 40", 2, "key 'address_width' of [[unit]] is one of 39, 48, 57"),
        ("[[unit]]\n\n[[unit]]\nname = 3", 4, "key 'name' of [[unit]] is text"),
        ('[[unit]]\nname = "../x"', 2, "is a name such as 'dmar0'"),
        ('[[unit]]\nname = "none"', 2, "is a name such as 'dmar0'"),
        ('[[unit]]\nname = "a"\n[[unit]]\nname = "a"', 4, "a second time"),
        ('[[unit]]\nkind = "amd"\nsnoop_control = true', 3, "is for kind 'vt-d' only"),
        ("[[unit]]\ndirty_tracking = true", 2, "wants scalable = true"),
        ("[[unit]]\ndirty_tracking = 1", 2, "is true or false"),
        ('[[unit]]\npage_sizes = "4K"', 2, "is a list such as"),
        ('[[unit]]\npage_sizes = ["4K", "64K"]', 2, "is made of '4K', '2M', '1G', not of '64K'"),
        ('[[unit]]\nkind = "amd"\npage_sizes = ["4K", "48K"]', 3, "not of '48K'"),
        ('[[unit]]\nkind = "amd"\npage_sizes = ["4K", "2K"]', 3, "not of '2K'"),
        ('[[unit]]\npage_sizes = ["2M"]', 2, "lacks '4K'"),
        ("[[unit]]\nreserved = 4", 2, "key 'reserved' of [[unit]] is a list of tables"),
        ("[[unit]]\nreserved = [{ start = 0 }]", 2, "lacks 'last'"),
        ("[[unit]]\nreserved = [{ start = 0, last = 4096 }]", 2, "whole pages"),
        ("[[unit]]\nreserved = [{ start = 8192, last = 4095 }]", 2, "whole pages"),
        ("[[unit]]\nreserved = [{ start = -1, last = 4095 }]", 2, "from 0 to 2**64 - 1, not -1"),
        ('[[unit]]\nreserved = [{ start = 0, last = 4095, kind = "sw-msi" }]', 2, "not 'sw-msi'"),
        ('[[device]]\nmodel = "edu"\nunit = "dmar1"', 3, "is 'dmar0' or 'none', not 'dmar1'"),
        ('unit = []\n[[device]]\nmodel = "edu"\nunit = "dmar0"', 4, "is 'none', not 'dmar0'"),
        ('[[device]]\nmodel = "edu"\nacs = 1', 3, "key 'acs' of [[device]] is true or false"),
        ('[[device]]\nmodel = "edu"\ndriver = ""', 3, "is the name of a driver"),
        ('[[device]]\nmodel = "edu"\nreserved = [1]', 3, "key 'reserved' of [[device]] is a table"),
        ("[machine]\nallow_unsafe_interrupts = 1", 2, "is true or false"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(text: str, line: int, words: str) -> None:
    with pytest.raises(MachineError, match=rf"^lab\.toml:{line}: .*{re.escape(words)}"):
        parse_machine(text, "lab.toml")


def test_a_device_stands_behind_its_unit_with_its_root_port_and_the_rest_behind_the_first(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(TWO)
    with SoftHost(machine=file) as host:
        first, second = host.system.units
        behind = {
            requester.name: requester.unit for group in host.system.groups.values() for requester in group.requesters
        }
    assert behind == {
        "0000:00:00.0": first,
        "0000:00:01.0": first,
        "0000:00:02.0": second,
        "0000:01:00.0": first,
        "0000:02:00.0": second,
    }


def test_one_bus_has_one_unit(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    devices = '[[device]]\nmodel = "edu"\naddr = "01:00.0"\nunit = "dmar1"\n'
    file.write_text("[[unit]]\n[[unit]]\n" + devices + devices.replace("00.0", "00.1").replace("dmar1", "dmar0"))
    with pytest.raises(MachineError, match=r"lab\.toml:7: 0000:01:00\.1 stands behind a root port of dmar1"):
        SoftHost(machine=file)


def test_sysfs_shows_every_unit_with_its_devices_and_registers(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(TWO)
    with SoftHost(machine=file) as host:
        tree = host.tree
        assert tree.listdir("/sys/class/iommu") == ("dmar0", "dmar1")
        for name, devices, width, sizes, remapping, snoop, place in (
            ("dmar0", ("0000:00:00.0", "0000:00:01.0", "0000:01:00.0"), 39, 1, 1, 0, "fed90000"),
            ("dmar1", ("0000:00:02.0", "0000:02:00.0"), 48, 3, 0, 1, "fed91000"),
        ):
            unit = f"/sys/class/iommu/{name}"
            assert tree.listdir(f"{unit}/devices") == devices
            assert all(tree.realpath(f"/sys/bus/pci/devices/{bdf}/iommu") == tree.realpath(unit) for bdf in devices)
            capability = int(tree.read(f"{unit}/intel-iommu/cap"), 16)
            extended = int(tree.read(f"{unit}/intel-iommu/ecap"), 16)
            assert (capability >> 16 & 0x3F) + 1 == width
            assert capability >> 34 & 0xF == sizes
            assert (extended >> 3 & 1, extended >> 7 & 1) == (remapping, snoop)
            assert tree.read(f"{unit}/intel-iommu/address").decode() == f"{place}\n"
            assert int(tree.read(f"{unit}/intel-iommu/domains_used")) == len(devices)


def test_reserved_regions_in_sysfs_are_those_of_the_unit_and_of_the_device(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(TWO)
    with SoftHost(machine=file) as host:

        def shown(bdf: str) -> list[list[str]]:
            lines = host.tree.read(f"/sys/bus/pci/devices/{bdf}/iommu_group/reserved_regions").decode().splitlines()
            return [line.split() for line in lines]

        msi = ["0x00000000fee00000", "0x00000000feefffff", "msi"]
        assert shown("0000:01:00.0") == [["0x0000000001000000", "0x0000000001ffffff", "reserved"], msi]
        assert shown("0000:02:00.0") == [["0x000000007b800000", "0x000000007fffffff", "direct-relaxable"], msi]


def test_a_function_made_by_the_caller_stands_behind_the_first_unit(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[[unit]]\nname = "north"\n[[unit]]\n')
    with SoftHost([Rich()], machine=file) as host:
        unit = host.functions["0000:01:00.0"].requester.unit
        assert unit is not None
        assert unit.name == "north"


def test_a_width_that_no_unit_has_is_refused() -> None:
    from ioas.soft.iommu import System, amd_unit

    with pytest.raises(UsageError, match="not 40"):
        amd_unit(System(), address_width=40)
