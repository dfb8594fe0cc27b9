"""Refusals and the exceptions that carry them: `ioas.errors`."""

from __future__ import annotations

import ast
import errno
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import ioas
from ioas import errors
from ioas.errors import Culprit, KernelError, Refusal, refuse

SOURCE = Path(ioas.__file__).parent
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, KernelError)]
ERRNOS = {name for name in vars(errno) if name.startswith("E")}


def raised_errnos() -> Iterator[tuple[str, str]]:
    """Every errno that the package raises through `refuse`, with the place."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args and _name(node.func) == "refuse"):
                continue
            for name in _errno_names(node.args[0]):
                yield name, f"{path.relative_to(SOURCE)}:{node.lineno}"


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _errno_names(argument: ast.expr) -> set[str]:
    """The errnos that an argument may stand for; a plain variable says nothing."""
    return {name for node in ast.walk(argument) if isinstance(node, ast.expr) and (name := _name(node)) in ERRNOS}


def test_every_errno_that_is_raised_has_an_exception_of_its_own() -> None:
    missing = {name: place for name, place in raised_errnos() if getattr(errno, name) not in KernelError._classes}
    assert missing == {}


def test_no_two_exceptions_stand_for_one_errno() -> None:
    numbers = [one.number for one in CLASSES if one is not KernelError]
    assert len(numbers) == len(set(numbers)) > 20
    assert all(number in errno.errorcode for number in numbers)


@pytest.mark.parametrize("one", [one for one in CLASSES if one is not KernelError], ids=lambda one: one.__name__)
def test_refuse_picks_the_exception_of_the_errno(one: type[KernelError]) -> None:
    error = refuse(one.number, "because", "field", "length")
    assert type(error) is one
    assert isinstance(error, OSError)
    assert error.errno == one.number
    assert str(one.__doc__).partition(":")[0] in ERRNOS
    assert getattr(errno, str(one.__doc__).partition(":")[0]) == one.number


def test_an_errno_without_its_own_exception_is_still_a_kernel_error() -> None:
    error = refuse(errno.EXDEV, "because")
    assert type(error) is KernelError
    assert error.errno == errno.EXDEV


def test_a_refusal_reads_as_errno_reason_and_culprit() -> None:
    assert str(refuse(errno.EINVAL, "length is not a multiple of 4096", "field", "length")) == (
        "EINVAL: length is not a multiple of 4096 (field length)"
    )
    assert str(refuse(errno.ENOENT, "nothing is mapped here", "address", 0x1000)) == (
        "ENOENT: nothing is mapped here (address 0x1000)"
    )
    assert str(refuse(errno.EBUSY, "still used", "object", 7)) == "EBUSY: still used (object 7)"
    assert str(refuse(errno.EPERM, "not allowed")) == "EPERM: not allowed"
    assert str(refuse(errno.EOPNOTSUPP, "unknown flag")) == "EOPNOTSUPP: unknown flag"  # not ENOTSUP, its other name
    assert Refusal(9999, "no such errno", Culprit("limit", "x")).name == "9999"


def test_an_error_survives_pickling_with_its_refusal() -> None:
    error = refuse(errno.EADDRINUSE, "reserved for MSI", "region", "0xfee00000-0xfeefffff")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.refusal == error.refusal
    assert (again.errno, str(again)) == (error.errno, str(error))
