"""Finding Linux 7.3: what stands in for Debian's packages, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ioas.errors import EnvironmentRefusal
from tools.kernel import source


def tree(directory: Path, version: tuple[int, int, int]) -> Path:
    numbers = "".join(f"{name} = {n}\n" for name, n in zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), version, strict=True))
    (directory / "Makefile").write_text(f"# SPDX-License-Identifier: GPL-2.0\n{numbers}EXTRAVERSION =\n")
    headers = directory / "usr/include/linux"
    headers.mkdir(parents=True)
    (headers / "iommufd.h").touch()
    return directory


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("IOAS_LINUX", raising=False)


def test_an_empty_cache_has_no_source() -> None:
    assert source.found() is None


def test_a_tree_named_by_the_variable_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IOAS_LINUX", str(tree(tmp_path, (7, 3, 9))))

    assert source.found() == source.Source(tmp_path, tmp_path / "usr/include", "7.3.9")


def test_a_tree_of_another_release_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IOAS_LINUX", str(tree(tmp_path, (6, 12, 1))))

    with pytest.raises(EnvironmentRefusal, match=r"is Linux 6\.12\.1; 7\.3 is needed"):
        source.found()


def test_a_directory_that_is_no_tree_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IOAS_LINUX", str(tmp_path))

    with pytest.raises(EnvironmentRefusal, match="no Linux source tree"):
        source.found()


def test_the_newest_entry_of_the_cache_is_taken(tmp_path: Path) -> None:
    for version in ("7.3.4", "7.3.10", "7.3.9"):
        (tmp_path / f"cache/ioas/linux-{version}-{source.PARTS}").mkdir(parents=True)

    found = source.found()

    assert found is not None
    assert found.version == "7.3.10"


def test_a_machine_without_apt_is_told_what_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(EnvironmentRefusal, match=r"no apt-get .* set IOAS_LINUX to a Linux"):
        source.fetch()
