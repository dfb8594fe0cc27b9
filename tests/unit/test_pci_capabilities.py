"""The lists of capabilities, as software walks them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ioas.errors import UsageError
from ioas.soft.pci import Acs, Aer, Bar, Function, Msi, Msix, Pcie, PowerManagement, header
from ioas.soft.pci.ports import RootPort


class Modern(Function):
    model = "modern"
    mmio = Bar(0, 1 << 14)
    capabilities = (PowerManagement(), Msi(4, masking=True), Msix(8, 0, table=0x2000), Pcie(flr=True), Aer(), Acs())


def test_every_capability_is_found_by_walking_the_lists() -> None:
    config = Modern().config
    assert [found for found, _ in config.capabilities()] == [0x01, 0x05, 0x11, 0x10]
    assert [found for found, _ in config.extended_capabilities()] == [0x0001, 0x000D]


def test_structures_do_not_overlap_and_stay_inside_of_their_lists() -> None:
    function = Modern()
    spans = []
    for kind in (PowerManagement, Msi, Msix, Pcie, Aer, Acs):
        placed = function.find(kind)
        assert placed is not None
        capability, offset = placed
        spans.append((offset, offset + capability.length))
        limit = range(0x100, 0x1000) if capability.extended else range(0x40, 0x100)
        assert offset in limit
        assert offset + capability.length - 1 in limit
    spans.sort()
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_a_function_without_capabilities_says_so_in_its_status() -> None:
    class Bare(Function):
        pass

    config = Bare().config
    assert not config.get(header.STATUS, 2) & header.STATUS_CAPABILITIES
    assert config.get(header.CAPABILITIES, 1) == 0


def test_pci_express_alone_gives_4096_bytes() -> None:
    class Conventional(Function):
        capabilities = (Msi(),)

    assert (Modern().config.size, Conventional().config.size) == (4096, 256)


def test_an_extended_capability_without_pci_express_is_refused() -> None:
    class Confused(Function):
        capabilities = (Acs(),)

    with pytest.raises(UsageError, match="outside of 256 bytes"):
        Confused()


@pytest.mark.parametrize("vectors", [0, 3, 64])
def test_a_number_of_msi_vectors_that_cannot_be_expressed_is_refused(vectors: int) -> None:
    with pytest.raises(UsageError, match=f"not {vectors}"):
        Msi(vectors)


@pytest.mark.parametrize(
    ("address64", "masking", "length"), [(False, False, 10), (True, False, 14), (False, True, 20), (True, True, 24)]
)
def test_the_msi_structure_has_the_length_its_features_need(address64: bool, masking: bool, length: int) -> None:
    assert Msi(1, address64=address64, masking=masking).length == length


def test_an_msix_table_outside_of_its_bar_is_refused() -> None:
    class Short(Function):
        mmio = Bar(0, 256)
        capabilities = (Msix(16, 0),)

    with pytest.raises(UsageError, match="pending bits lie outside of BAR 0"):
        Short()


@pytest.mark.parametrize("bar", [-1, 6, 7])
def test_an_msix_table_in_no_bar_is_refused(bar: int) -> None:
    class Lost(Function):
        mmio = Bar(5, 4096)
        capabilities = (Msix(8, bar),)

    with pytest.raises(UsageError, match=f"BAR {bar}"):
        Lost()


def test_capabilities_that_do_not_fit_below_the_extended_ones_are_refused() -> None:
    class Long(Function):
        capabilities = (*(Msi(32, masking=True) for _ in range(6)), Pcie())

    with pytest.raises(UsageError, match=r"Long.*0x10c.*0x100"):
        Long()


def test_msix_tables_that_overlap_are_refused() -> None:
    with pytest.raises(UsageError, match="overlap"):
        Msix(16, 0, table=0, pending=128)


def test_a_link_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="speed 9"):
        Pcie(speed=9)


def test_the_message_address_and_data_are_software_s_but_the_features_are_not() -> None:
    function = Modern()
    offset = function.config.find(0x05)
    assert offset is not None
    function.config.write(offset + 2, b"\xff\xff")
    assert function.config.get(offset + 2, 2) == 0x01F5, "enable, 4 of 4 vectors, 64 bits, masking"
    function.config.write(offset + 4, b"\xff" * 8)
    assert function.config.get(offset + 4, 8) == 0xFFFFFFFF_FFFFFFFC


def test_a_root_port_shows_a_type_1_header_and_acs_switched_on() -> None:
    port = RootPort()
    assert port.config.get(header.HEADER_TYPE, 1) == 1
    acs = port.config.find_extended(0x000D)
    express = port.config.find(0x10)
    assert acs is not None
    assert express is not None
    assert port.config.get(acs + 6, 2) == 0x1D
    assert port.config.get(express + 2, 2) == 0x42
