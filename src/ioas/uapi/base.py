"""How the kernel's structures are written down here, and how ioctl numbers are made.

A structure reads like its C declaration; the annotations are the fields::

    class iommu_ioas_alloc(Struct):
        size: u32
        flags: u32
        out_ioas_id: u32

For the type checker `u32` is an int; for ctypes it is a `c_uint32`. Further kinds of field:

- ``idr: Annotated[u32_array, 6]``: an array; length 0 is C's flexible array member.
- ``header: vfio_info_cap_header``: a structure within.
- ``out_data_type: Annotated[u32, OVERLAY]``: stands in the same place as the field before it, as the
  members of an anonymous union do.

Names are the kernel's, verbatim. A field called ``__reserved`` is reached by just that name at module
level; inside a class body Python would mangle it, so write ``getattr(command, "__reserved")`` there.

Only annotations in the class body itself become fields, and instances have no `__dict__`: a mistyped
field raises AttributeError instead of being lost.

The layout is that of the 64-bit ABIs (in which ``__u64`` is aligned to 8 bytes); tests/unit/test_uapi_abi.py
compares it with the 7.3 headers. The fields are set by a metaclass, because `ctypes` does not accept
`_fields_` from `__init_subclass__` on any Python version.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import Array
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin

if TYPE_CHECKING:
    from _ctypes import _PyCStructType as _StructType
else:
    _StructType = type(ctypes.Structure)

u8 = Annotated[int, ctypes.c_uint8]
u16 = Annotated[int, ctypes.c_uint16]
u32 = Annotated[int, ctypes.c_uint32]
u64 = Annotated[int, ctypes.c_uint64]
s8 = Annotated[int, ctypes.c_int8]
s16 = Annotated[int, ctypes.c_int16]
s32 = Annotated[int, ctypes.c_int32]
s64 = Annotated[int, ctypes.c_int64]
pointer = Annotated[int, ctypes.c_uint64]
"""A C pointer member: a user address of 8 bytes."""

u8_array = Annotated[Array[ctypes.c_uint8], ctypes.c_uint8]
u32_array = Annotated[Array[ctypes.c_uint32], ctypes.c_uint32]
u64_array = Annotated[Array[ctypes.c_uint64], ctypes.c_uint64]
s32_array = Annotated[Array[ctypes.c_int32], ctypes.c_int32]


class _Overlay:
    """The type of `OVERLAY`."""


OVERLAY: Final = _Overlay()
"""Marks a field that shares the place of the field before it."""

_UnionType: Any = type(ctypes.Union)
_CType = Any  # a ctypes class: the type of these classes has no public name
_Field = tuple[str, _CType]


class _StructMeta(_StructType):
    """Turns the annotations of a class body into ctypes fields."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any) -> _StructMeta:
        namespace.setdefault("__slots__", ())
        return super().__new__(mcs, name, bases, namespace, **keywords)

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any) -> None:
        super().__init__(name, bases, namespace, **keywords)
        # `cls.__annotations__` is the class's own on 3.11 to 3.14, evaluated lazily on 3.14.
        if cls.__annotations__:
            fields, unions = _fields(cls, name, cls.__annotations__)
            if unions:
                cls._anonymous_ = unions
            cls._fields_ = fields


class Struct(ctypes.Structure, metaclass=_StructMeta):
    """A kernel structure: all zero by default, fields by keyword, `bytes(x)` and `X.from_buffer_copy(data)`.

    A field that the class does not have raises AttributeError, also in the constructor.
    """

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(getattr(self, name))}" for name in field_names(type(self)))
        return f"{type(self).__name__}({shown})"


def field_names(struct: type[Struct]) -> tuple[str, ...]:
    """The names of the fields, in order, with those that overlay others among them."""
    prefix = f"_{struct.__name__.lstrip('_')}__"
    return tuple(_plain(name, prefix) for name in struct.__annotations__)


def offset_of(struct: type[Struct], field: str) -> int:
    """Where `field` begins, in bytes (C's offsetof). AttributeError when there is none."""
    return int(getattr(struct, field).offset)


def size_of(struct: type[Struct], field: str) -> int:
    """The size of `field` in bytes; 0 for a flexible array member. AttributeError when there is none."""
    return int(getattr(struct, field).size)


def end_of(struct: type[Struct], field: str) -> int:
    """Where `field` ends: the least size of a structure that contains it (C's offsetofend)."""
    return offset_of(struct, field) + size_of(struct, field)


def IO(kind: str, number: int) -> int:  # noqa: N802 - the kernel's name without its underscore
    """An ioctl number that carries neither size nor direction (_IO), as all of iommufd's and VFIO's do."""
    return ord(kind) << 8 | number


def IOR(kind: str, number: int, size: int) -> int:  # noqa: N802
    """An ioctl number whose structure of `size` bytes is read from the kernel (_IOR)."""
    return 2 << 30 | size << 16 | IO(kind, number)


def IOW(kind: str, number: int, size: int) -> int:  # noqa: N802
    """An ioctl number whose structure of `size` bytes is written to the kernel (_IOW)."""
    return 1 << 30 | size << 16 | IO(kind, number)


def IOWR(kind: str, number: int, size: int) -> int:  # noqa: N802
    """An ioctl number whose structure of `size` bytes goes both ways (_IOWR)."""
    return IOR(kind, number, size) | IOW(kind, number, size)


def _fields(cls: type, name: str, annotations: dict[str, Any]) -> tuple[list[_Field], tuple[str, ...]]:
    """The ctypes fields for a class's annotations, and which of them are anonymous unions."""
    scope = vars(sys.modules[cls.__module__])
    groups: list[list[_Field]] = []
    for mangled, annotation in annotations.items():
        field = _plain(mangled, f"_{name.lstrip('_')}__")
        kind, overlay = _kind(annotation, scope, f"{name}.{field}")
        if overlay and groups:
            groups[-1].append((field, kind))
        else:
            groups.append([(field, kind)])
    fields: list[_Field] = []
    unions: list[str] = []
    for group in groups:
        if len(group) == 1:
            fields += group
        else:
            unions.append(f"_union_{group[0][0]}")
            fields.append((unions[-1], _UnionType(unions[-1], (ctypes.Union,), {"_fields_": group})))
    return fields, tuple(unions)


def _kind(annotation: Any, scope: dict[str, Any], where: str) -> tuple[_CType, bool]:
    """The ctypes class of one annotation, and whether the field overlays the one before it."""
    if isinstance(annotation, str):
        annotation = eval(annotation, scope)  # the module's own source text: `from __future__ import annotations`
    if get_origin(annotation) is not Annotated:
        return annotation, False
    base, *marks = get_args(annotation)
    kind: _CType
    overlay = OVERLAY in marks
    counts = [mark for mark in marks if isinstance(mark, int)]
    kinds = [mark for mark in marks if isinstance(mark, type)]
    if len(kinds) > 1 or len(counts) > 1 or len(kinds) + len(counts) + overlay != len(marks):
        raise TypeError(f"{where}: cannot make a field of {annotation!r}")
    kind = kinds[0] if kinds else base
    return (kind * counts[0] if counts else kind), overlay


def _plain(name: str, prefix: str) -> str:
    """A field's name as written, without Python's private name mangling."""
    return f"__{name.removeprefix(prefix)}" if name.startswith(prefix) else name


def _shown(value: Union[int, Struct, Array[Any]]) -> str:  # noqa: UP007 - Array[Any] | ... needs a runtime type
    if isinstance(value, int):
        return str(value) if -10 < value < 10 else f"{value:#x}"
    return repr(value) if isinstance(value, Struct) else repr(list(value))
