"""What is installed is taken, what is not is fetched, and what cannot be fetched is named."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import pytest

from ioas.errors import EnvironmentRefusal
from tools.kernel import apt
from tools.reference import toolbox


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing installed and an empty cache; the directory on its PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(toolbox, "LIBELF", str(tmp_path / "gelf.h"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def install(directory: Path, name: str, text: str = "") -> Path:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def quiet(_: str) -> None: ...


def qemu_with(models: Sequence[str]) -> str:
    return "\n".join(f"echo 'name \"{model}\", bus PCI'" for model in models)


def test_an_installed_qemu_with_the_devices_is_taken(bare: Path) -> None:
    program = install(bare, toolbox.QEMU, qemu_with(toolbox.MODELS))

    assert toolbox.qemu(quiet) == (str(program),)


def test_an_old_qemu_is_not_taken(bare: Path) -> None:
    install(bare, toolbox.QEMU, qemu_with([model for model in toolbox.MODELS if model != "igb"]))

    with pytest.raises(EnvironmentRefusal, match=r"no apt-get .*; install QEMU 8\.0 or later"):
        toolbox.qemu(quiet)


def test_another_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    with pytest.raises(EnvironmentRefusal, match="which are aarch64"):
        toolbox.qemu(quiet)


def test_a_compiler_has_to_be_installed(bare: Path) -> None:
    install(bare, "make")

    with pytest.raises(EnvironmentRefusal, match="needs gcc, binutils and libc6-dev"):
        toolbox.for_kernel(quiet)


def test_what_can_be_fetched_is_named_where_it_cannot(bare: Path) -> None:
    for program in (*toolbox.COMPILER, "bison", "bc", "m4"):
        install(bare, program)

    with pytest.raises(EnvironmentRefusal, match="install flex, libelf-dev"):
        toolbox.for_kernel(quiet)


def test_nothing_is_added_where_everything_is_installed(bare: Path) -> None:
    for program in (*toolbox.COMPILER, *toolbox.BUILD):
        install(bare, program)
    Path(toolbox.LIBELF).touch()

    assert toolbox.for_kernel(quiet)["PATH"] == str(bare)


def test_packages_are_unpacked_once_and_an_interrupted_fetch_leaves_no_half(
    bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in (*toolbox.COMPILER, "bison", "bc", "m4"):
        install(bare, program)
    calls = []

    def missing(_: apt.PrivateApt, names: Sequence[str]) -> list[Path]:
        calls.append(list(names))
        if len(calls) == 1:
            raise EnvironmentRefusal("the network is gone")
        return [tmp_path / "flex.deb"]

    unpack = 'mkdir -p "$3/usr/bin" && echo > "$3/usr/bin/flex"'
    install(bare, "dpkg-deb", f"PATH=/usr/bin:/bin; {unpack}")
    monkeypatch.setattr(apt.PrivateApt, "update", lambda self: self._directory.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(apt.PrivateApt, "missing", missing)

    with pytest.raises(EnvironmentRefusal, match="network is gone"):
        toolbox.for_kernel(quiet)
    paths = [toolbox.for_kernel(quiet)["PATH"].partition(":")[0] for _ in range(2)]

    assert calls == [["flex", "libelf-dev"]] * 2
    assert paths[0] == paths[1]
    assert (Path(paths[0]) / "flex").exists()
