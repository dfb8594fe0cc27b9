"""The compiled part is used where it fits the sources beside it, and says why where it is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ioas.run.check import _mapped_bars
from ioas.run.mmio import compiled


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources and of what was built from them."""
    if compiled.library() is None:
        pytest.skip("ioas was installed where there is no C compiler")
    for file in (compiled.LIBRARY, *compiled.SOURCES):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / compiled.LIBRARY.name)
    monkeypatch.setattr(compiled, "SOURCES", tuple(tmp_path / source.name for source in compiled.SOURCES))
    return tmp_path


def test_one_that_was_built_from_these_sources_is_used(place: Path) -> None:
    assert compiled.library() is not None
    assert _mapped_bars().verdict == "ok"


@pytest.mark.parametrize("name", ["trap.c", "poll.c"])
def test_one_that_was_built_from_other_sources_is_not_used(place: Path, name: str) -> None:
    with (place / name).open("a") as source:
        source.write("/* of a later version */\n")
    assert compiled.library() is None
    assert _mapped_bars().verdict == "degraded"
    assert "built from other sources than are here now" in _mapped_bars().text


@pytest.mark.parametrize("contents", [b"", b"no library"])
def test_one_that_is_broken_is_not_used(place: Path, contents: bytes) -> None:
    compiled.LIBRARY.write_bytes(contents)
    assert compiled.library() is None


def test_one_that_does_not_say_what_it_was_built_from_is_not_used(place: Path) -> None:
    compiled.LIBRARY.write_bytes(compiled.LIBRARY.read_bytes().replace(b"compiled_sources", b"compiled_nothing"))
    assert compiled.library() is None
    assert "compiled_sources" in _mapped_bars().text


def test_without_a_compiler_there_is_none(place: Path) -> None:
    compiled.LIBRARY.unlink()
    assert compiled.library() is None
    assert "no C compiler" in _mapped_bars().text
