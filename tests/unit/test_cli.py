"""The command line answers a wrong call with one line and an exit status, never with a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def ioas(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ioas", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bogus"], "bogus"),
        (["run"], "no program to run"),
        (["run", "--bogus"], "--bogus"),
        (["run", "--device"], "--device"),
        (["run", "--device", "bogus", "--", "true"], "bogus"),
        (["run", "--device", "edu,bogus=1", "--", "true"], "bogus"),
        (["run", "--device", "edu,addr=1:2", "--", "true"], "1:2"),
        (["run", "--device", "edu,addr=05:00.0", "--device", "edu,addr=05:00.0", "--", "true"], "05:00.0"),
        (["run", "--cap", "bogus", "--", "true"], "bogus"),
        (["run", "--machine", "/does/not/exist.toml", "--", "true"], "/does/not/exist.toml"),
    ],
)
def test_a_wrong_command_line_is_answered_by_one_line_that_names_the_culprit(arguments: list[str], named: str) -> None:
    done = ioas(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("program", "status"), [("./not-there", 127), ("not-in-path", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_be_run_is_told_in_one_line_with_the_status_of_a_shell(program: str, status: int) -> None:
    done = ioas("run", "--", program)
    assert done.returncode == status
    assert program in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_names_every_command() -> None:
    done = ioas("--help")
    assert done.returncode == 0
    assert "run" in done.stdout
    assert "devices" in done.stdout


def test_devices_lists_the_models_and_their_options() -> None:
    done = ioas("devices")
    assert done.returncode == 0
    assert "edu" in done.stdout
    assert "dma_mask" in done.stdout


def test_devices_as_json_name_their_schema() -> None:
    found = json.loads(ioas("devices", "--json").stdout)
    assert (found["schema"], found["version"]) == ("ioas.devices", 1)
    models = {model["name"]: model for model in found["models"]}
    assert models["edu"]["error"] is None
    assert models["edu"]["description"].startswith("The educational device")
    [mask] = [option for option in models["edu"]["options"] if option["name"] == "dma_mask"]
    assert mask["default"] == (1 << 28) - 1
    assert set(mask) == {"name", "default", "help", "expected"}


def test_devices_names_what_does_not_load_and_lists_the_rest(tmp_path: Path) -> None:
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[ioas.devices]\nabsent = no_such_module:X\nbroken = broken:Model\n")
    (tmp_path / "broken.py").write_text(
        "from ioas.soft.pci import Function\n"
        "class Model(Function):\n"
        "    @classmethod\n"
        "    def options(cls): raise RuntimeError('out of order')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "ioas", "devices"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, PYTHONPATH=path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "edu: " in done.stdout
    assert "dma_mask" in done.stdout
    assert "absent: device model 'absent' (no_such_module:X) cannot be loaded" in done.stdout
    assert "broken: cannot be described: RuntimeError: out of order" in done.stdout
