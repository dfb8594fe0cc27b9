"""Kernels are built once and kept whole; what stands in the way is said in a sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ioas.errors import EnvironmentRefusal
from tools.kernel import source
from tools.reference import config, kernels, toolbox

ROOT = Path(__file__).parents[2]
# A tree with the two goals that building uses: it takes every option and "compiles" two files.
MAKEFILE = """
VERSION = 7
PATCHLEVEL = 3
SUBLEVEL = 9

allnoconfig:
	@grep -v '=n$$' $(KCONFIG_ALLCONFIG) > $(O)/.config
bzImage:
	@echo '  CC      one.o'; echo '  CC      two.o'; echo run >> $(O)/runs
	@mkdir -p $(O)/arch/x86/boot && cp $(O)/.config $(O)/arch/x86/boot/bzImage
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("IOAS_LINUX", raising=False)
    monkeypatch.setattr(toolbox, "for_kernel", lambda _: dict(os.environ))
    return tmp_path / "cache/ioas/reference"


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/Makefile").write_text(MAKEFILE)
    monkeypatch.setenv("IOAS_LINUX", str(tmp_path / "tree"))
    return tmp_path / "tree"


def quiet(_: str) -> None: ...


def runs(home: Path) -> int:
    (file,) = home.glob("work-*/objects/runs")
    return len(file.read_text().split())


def test_every_option_has_a_name_and_every_group_a_reason() -> None:
    for kernel in config.kernels():
        lines = config.fragment(kernel).splitlines()
        assert len(set(lines)) == len(lines)
        assert all(re.fullmatch(r"CONFIG_[A-Z0-9_]+=(y|n|\d+)", line) for line in lines)


def test_an_option_that_did_not_take_is_named() -> None:
    whole = config.fragment("default")
    config.check("default", whole.replace("CONFIG_IOMMUFD_VFIO_CONTAINER=n\n", ""))

    with pytest.raises(EnvironmentRefusal, match="does not take CONFIG_IOMMUFD=y, CONFIG_IOMMUFD_VFIO_CONTAINER=n"):
        config.check("default", whole.replace("CONFIG_IOMMUFD=y\n", "").replace("CONTAINER=n", "CONTAINER=y"))


def test_a_kernel_is_built_once(tree: Path, home: Path) -> None:
    assert kernels.found("default") is None

    built = kernels.build(quiet)

    assert {name: path.read_text() for name, path in built.items()} == {
        name: re.sub(r"\S+=n\n", "", config.fragment(name)) for name in config.kernels()
    }
    assert kernels.build(quiet) == built
    assert kernels.get("container", quiet) == built["container"]
    assert runs(home) == len(built)


def test_a_tree_that_changed_is_built_again_when_asked(tree: Path, home: Path) -> None:
    kernels.build(quiet)
    kernels.build(quiet, again=True)

    assert runs(home) == 2 * len(config.kernels())


def test_an_interrupted_build_goes_on(tree: Path, home: Path) -> None:
    whole = (tree / "Makefile").read_text()
    (tree / "Makefile").write_text(
        whole.replace("bzImage:\n", "bzImage:\n\t@grep -qx CONFIG_VFIO_CONTAINER=y $(O)/.config\n")
    )
    with pytest.raises(EnvironmentRefusal, match="does not build"):
        kernels.build(quiet)
    assert kernels.found("default") is not None
    assert kernels.found("container") is None

    (tree / "Makefile").write_text(whole)
    kernels.build(quiet)

    assert runs(home) == len(config.kernels())


def test_a_build_that_fails_shows_what_make_said(tree: Path) -> None:
    with (tree / "Makefile").open("a") as makefile:
        makefile.write("\t@echo 'one.c:3: error: no' >&2; exit 2\n")

    with pytest.raises(EnvironmentRefusal, match=r"(?s)Linux does not build.*error: no"):
        kernels.build(quiet)


def test_a_tree_that_was_built_in_place_is_refused_with_the_remedy(tree: Path) -> None:
    (tree / "Makefile").write_text(MAKEFILE.replace("@grep", "@echo 'The source tree is not clean'; exit 1; grep"))

    with pytest.raises(EnvironmentRefusal, match="make mrproper"):
        kernels.build(quiet)


def test_the_newest_kernel_in_the_cache_is_found(home: Path) -> None:
    for version in ("7.3.9", "7.3.10", "7.3.4"):
        (home / f"linux-{version}-{config.fingerprint()}-default").mkdir(parents=True)

    assert kernels.found("default") == home / f"linux-7.3.10-{config.fingerprint()}-default/bzImage"


def test_a_damaged_package_is_removed(home: Path) -> None:
    package = home.parent / f"packages/linux-source-{source.RELEASE}_7.3.4-1_all.deb"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"half of it")

    with pytest.raises(EnvironmentRefusal, match=r"was damaged .* run the command again"):
        kernels.build(quiet)
    assert not package.exists()


def tool(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, on a machine with nothing but Python."""
    bare = {"PATH": "/nowhere", "HOME": os.environ["XDG_CACHE_HOME"], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tools.reference", *words]
    return subprocess.run(command, cwd=ROOT, env={**bare, **environment}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["run", "true"], {}, "building Linux needs gcc, binutils, make"),
        (["run", "true"], {"IOAS_LINUX": "/nowhere"}, "IOAS_LINUX=/nowhere is no Linux source tree"),
        (["build"], {}, "install QEMU 8.0 or later"),
    ],
)
def test_what_is_missing_is_named_with_status_125(words: list[str], environment: dict[str, str], message: str) -> None:
    done = tool(*words, **environment)

    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.splitlines()[-1].startswith("tools.reference: ")
    assert message in done.stderr


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(
        st.sampled_from(
            ["run", "build", "--", "--variant", "noiommu", "--timeout", "0", "-1", "--output", "/", "--memory"]
        )
        | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6),
        max_size=6,
    )
)
def test_no_command_line_ends_in_a_traceback(words: list[str]) -> None:
    done = tool(*words)

    assert done.returncode in (0, 2, 125)
    assert "Traceback" not in done.stderr
