"""IOMMU groups: who can be kept apart from whom (pci_device_group, 7.3)."""

from __future__ import annotations

from collections.abc import Iterable

from ioas.soft.iommu import System, vtd_unit
from ioas.soft.pci import Acs, Function, ManualTimers, Pcie, Topology
from ioas.soft.pci.capabilities import acs


class Conventional(Function):
    """Without PCI Express, as edu."""


class Endpoint(Function):
    capabilities = (Pcie(),)


class IsolatedEndpoint(Function):
    """A function that says it keeps itself apart from its siblings."""

    capabilities = (Pcie(), Acs())


class HalfIsolatedEndpoint(Function):
    capabilities = (Pcie(), Acs(enabled=acs.SOURCE_VALIDATION | acs.REQUEST_REDIRECT))


def new() -> Topology:
    system = System()
    return Topology(system, vtd_unit(system), ManualTimers())


def groups(topology: Topology) -> list[list[str]]:
    topology.settle()
    return [[requester.name for requester in group.requesters] for group in topology.system.groups.values()]


def group_of(found: Iterable[list[str]], name: str) -> list[str]:
    return next(group for group in found if name in group)


def test_behind_ports_with_acs_everyone_has_a_group_of_their_own_numbered_by_bus() -> None:
    topology = new()
    topology.plug(Conventional())
    topology.plug(Endpoint())
    assert groups(topology) == [
        ["0000:00:00.0"],
        ["0000:00:01.0"],
        ["0000:00:02.0"],
        ["0000:01:00.0"],
        ["0000:02:00.0"],
    ]
    assert list(topology.system.groups) == [0, 1, 2, 3, 4]


def test_behind_a_port_without_acs_a_device_shares_the_ports_group() -> None:
    topology = new()
    topology.plug(Conventional(), acs=False)
    topology.plug(Conventional())
    found = groups(topology)
    assert group_of(found, "0000:01:00.0") == ["0000:00:01.0", "0000:01:00.0"]
    assert group_of(found, "0000:02:00.0") == ["0000:02:00.0"]


def test_ports_of_one_slot_without_acs_pull_everything_behind_them_together() -> None:
    topology = new()
    topology.add_port(1, "0000:00:04.0", acs=False)
    topology.add_port(2, "0000:00:04.1", acs=False)
    topology.add_port(3, "0000:00:04.2")
    for bus in (1, 2, 3):
        topology.plug(Endpoint(), f"0000:{bus:02x}:00.0")
    found = groups(topology)
    assert group_of(found, "0000:01:00.0") == ["0000:00:04.0", "0000:00:04.1", "0000:01:00.0", "0000:02:00.0"]
    assert group_of(found, "0000:03:00.0") == ["0000:03:00.0"]


def test_functions_of_a_slot_share_a_group_unless_each_has_acs() -> None:
    topology = new()
    topology.plug(Endpoint(), "0000:01:00.0")
    topology.plug(Endpoint(), "0000:01:00.1")
    topology.plug(IsolatedEndpoint(), "0000:02:00.0")
    topology.plug(IsolatedEndpoint(), "0000:02:00.1")
    topology.plug(IsolatedEndpoint(), "0000:03:00.0")
    topology.plug(Endpoint(), "0000:03:00.1")
    topology.plug(Endpoint(), "0000:03:00.2")
    found = groups(topology)
    assert group_of(found, "0000:01:00.0") == ["0000:01:00.0", "0000:01:00.1"]
    assert group_of(found, "0000:02:00.0") == ["0000:02:00.0"]
    assert group_of(found, "0000:02:00.1") == ["0000:02:00.1"]
    assert group_of(found, "0000:03:00.0") == ["0000:03:00.0"]
    assert group_of(found, "0000:03:00.1") == ["0000:03:00.1", "0000:03:00.2"]


def test_a_service_that_is_offered_but_off_does_not_isolate() -> None:
    topology = new()
    topology.plug(HalfIsolatedEndpoint(), "0000:01:00.0")
    topology.plug(HalfIsolatedEndpoint(), "0000:01:00.1")
    assert group_of(groups(topology), "0000:01:00.0") == ["0000:01:00.0", "0000:01:00.1"]


def test_a_service_that_is_not_offered_counts_as_wired_on() -> None:
    class Wired(Function):
        capabilities = (Pcie(), Acs(offered=acs.SOURCE_VALIDATION, enabled=acs.SOURCE_VALIDATION))

    topology = new()
    topology.plug(Wired(), "0000:01:00.0")
    topology.plug(Wired(), "0000:01:00.1")
    assert group_of(groups(topology), "0000:01:00.0") == ["0000:01:00.0"]


def test_conventional_functions_of_a_slot_share_a_group() -> None:
    topology = new()
    topology.plug(Conventional(), "0000:00:05.0")
    topology.plug(Conventional(), "0000:00:05.1")
    topology.plug(Conventional(), "0000:00:06.0")
    assert groups(topology) == [["0000:00:00.0"], ["0000:00:05.0", "0000:00:05.1"], ["0000:00:06.0"]]


def test_turning_acs_off_in_a_port_before_boot_shows_in_the_groups() -> None:
    topology = new()
    topology.plug(Conventional())
    port = next(iter(topology.ports.values()))
    offset = port.config.find_extended(0x000D)
    assert offset is not None
    port.config.write(offset + acs.CONTROL, b"\x00\x00")
    assert group_of(groups(topology), "0000:01:00.0") == ["0000:00:01.0", "0000:01:00.0"]
