"""How structures are declared: `ioas.uapi.base`."""

from __future__ import annotations

import ctypes
from typing import Annotated

import pytest

from ioas.uapi.base import (
    IO,
    IOR,
    IOW,
    IOWR,
    OVERLAY,
    Struct,
    end_of,
    field_names,
    offset_of,
    size_of,
    u8,
    u8_array,
    u32,
    u64,
)


class Inner(Struct):
    low: u8
    high: u8


class Outer(Struct):
    size: u32
    flags: u8
    other_name: Annotated[u8, OVERLAY]
    inner: Inner
    __reserved: Annotated[u8_array, 1]
    address: u64
    data: Annotated[u8_array, 0]


def test_fields_stand_where_c_puts_them() -> None:
    assert field_names(Outer) == ("size", "flags", "other_name", "inner", "__reserved", "address", "data")
    assert [offset_of(Outer, name) for name in field_names(Outer)] == [0, 4, 4, 5, 7, 8, 16]
    assert (ctypes.sizeof(Outer), size_of(Outer, "data"), end_of(Outer, "flags")) == (16, 0, 5)


def test_overlaid_fields_share_their_bytes() -> None:
    outer = Outer(flags=7)
    assert outer.other_name == 7
    outer.other_name = 9
    assert outer.flags == 9


def test_a_structure_is_zero_until_set_and_copies_from_bytes() -> None:
    assert bytes(Outer()) == bytes(16)
    assert Outer.from_buffer_copy(bytes(Outer(address=0x1234))).address == 0x1234


def test_a_mistyped_field_is_an_error_and_not_lost() -> None:
    with pytest.raises(AttributeError):
        Outer(adress=1)
    outer = Outer()
    with pytest.raises(AttributeError):
        outer.adress = 1  # type: ignore[attr-defined]


def test_a_reserved_field_has_the_kernels_name() -> None:
    assert list(getattr(Outer(), "__reserved")) == [0]


def test_an_annotation_that_is_no_field_names_itself() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.field"):

        class Wrong(Struct):
            field: Annotated[u32, "four"]


def test_a_structure_shows_its_fields() -> None:
    assert repr(Inner(low=1, high=200)) == "Inner(low=1, high=0xc8)"


def test_ioctl_numbers_follow_the_generic_encoding() -> None:
    # _IO(';', 0x80), _IOR('f', 1, long), _IOW('f', 2, long): IOMMU_DESTROY, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
    assert IO(";", 0x80) == 0x3B80
    assert IOR("f", 1, 8) == 0x80086601
    assert IOW("f", 2, 8) == 0x40086602
    assert IOWR("f", 2, 8) == 0xC0086602
