"""docs/tutorial.md runs: its files are put together and its commands say what the page says they do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

PAGE = (Path(__file__).parents[2] / "docs/tutorial.md").read_text()
PIECES = re.findall(r"^```\w+ ([\w.]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONSOLE = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TOOLS = Path(sys.executable).parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the files of the page, installed as a package is: by its metadata."""
    files: dict[str, str] = {}
    for name, piece in PIECES:
        files[name] = files.get(name, "") + ("\n" if name in files else "") + piece
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"].items()
    text = "".join(f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in each.items()) for group, each in groups)
    (metadata / "entry_points.txt").write_text(text)
    return tmp_path


def run(place: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in its directory."""
    environment = {
        **os.environ,
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONWARNINGS": "error",
        "PYTEST_ADDOPTS": "-p no:cacheprovider --ioas-host=soft",
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_page_has_files_and_commands() -> None:
    assert {name for name, _ in PIECES} == {"crc.py", "pyproject.toml", "driver.py", "plain.py", "test_crc.py"}
    assert len(CONSOLE) == 4


@pytest.mark.parametrize(("command", "shown"), CONSOLE, ids=[command.split()[0] for command, _ in CONSOLE])
def test_a_command_of_the_page_says_what_the_page_shows(
    place: Path, command: str, shown: str, require: Callable[[str, str], NoReturn]
) -> None:
    if command.startswith("ioas run"):
        tried = run(place, "ioas run -- true")
        if tried.returncode:
            require("run", tried.stderr.strip())
    done = run(place, command)
    assert done.returncode == 0, done.stdout + done.stderr
    if command.startswith("pytest"):
        assert shown.strip() in done.stdout
    else:
        assert (done.stdout, done.stderr) == (shown, "")


def test_the_package_is_its_model_whatever_else_of_the_page_lies_beside_it(place: Path) -> None:
    pytest.importorskip("setuptools", reason="newer Pythons make environments without it")
    done = run(place, "PYTHONWARNINGS= python -c 'import setuptools; setuptools.setup()' -q egg_info")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "crc_device.egg-info/top_level.txt").read_text() == "crc\n"


def test_the_device_is_taken_along_with_what_is_in_no_register(place: Path) -> None:
    text = """
        from crc import Crc
        from ioas.soft.host import SoftHost
        from ioas.soft.pci import migration

        def machine():
            model = Crc()
            return model, SoftHost([model])

        one, first = machine()
        other, second = machine()
        one.position, one.length, one.status = 5, 9, 1
        one.schedule(1000, one._add_page, "a test")
        state, _ = migration.parse(other, migration.save(one))
        state.load()
        assert (other.position, other.length) == (5, 9)
        assert [timer.action for timer in other.running_timers] == [other._add_page]
        first.close()
        second.close()
    """
    lines = "\n".join(line[8:] for line in text.splitlines())
    (place / "taken.py").write_text(lines)
    done = run(place, "python taken.py")
    assert (done.returncode, done.stderr) == (0, "")
