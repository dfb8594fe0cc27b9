"""The examples do what they say: in Python with the API, and as ordinary programs under ``ioas run``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import lanes

EXAMPLES = Path(__file__).parents[2] / "examples"
TELLS = [
    "10! = 3628800",
    'memory to device by DMA: "Hello from user space", interrupt received',
    'device to memory by DMA: "Hello from user space", interrupt received',
    "device to memory after unmapping: stopped by the IOMMU, ",
]
RUN = [sys.executable, "-m", "ioas", "run"]


@pytest.fixture(scope="module")
def ioas_run() -> list[str]:
    """The command ``ioas run``, where it works (lane run)."""
    done = subprocess.run([*RUN, "--", "true"], capture_output=True, text=True, timeout=60)
    assert "internal error" not in done.stderr
    return RUN if done.returncode == 0 else lanes.require("run", done.stderr.strip() or "`ioas run -- true` fails")


@pytest.fixture
def edu(cc: str, tmp_path: Path) -> Path:
    """The C example, compiled with the machine's headers."""
    program = tmp_path / "edu"
    subprocess.run([cc, "-O2", "-o", program, EXAMPLES / "edu.c"], check=True)
    return program


def check(command: list[str | Path]) -> str:
    """Run it, expect success without a complaint, and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_tells(output: str) -> None:
    assert [tell for tell in TELLS if tell not in output] == []


def test_the_example_with_the_api() -> None:
    output = check([sys.executable, EXAMPLES / "edu_api.py"])
    assert_tells(output)
    assert "not mapped at 0x100000" in output


def test_the_example_with_the_api_by_group_and_container() -> None:
    output = check([sys.executable, EXAMPLES / "edu_api.py", "--group"])
    assert_tells(output)
    assert "edu 0000:01:00.0 is /dev/vfio/2" in output


def test_the_c_example_by_group_and_container_runs(ioas_run: list[str], cc: str, tmp_path: Path) -> None:
    program = tmp_path / "edu_group"
    subprocess.run([cc, "-O2", "-Wall", "-Werror", "-o", program, EXAMPLES / "edu_group.c"], check=True)
    assert_tells(check([*ioas_run, "--", program, "0000:01:00.0"]))
    assert_tells(check([*ioas_run, "--machine", _iommufd_machine(tmp_path), "--", program, "0000:01:00.0"]))


def _iommufd_machine(place: Path) -> Path:
    """A machine on which iommufd serves /dev/vfio/vfio."""
    machine = place / "machine.toml"
    machine.write_text('[machine]\ncontainer = "iommufd"\n\n[[device]]\nmodel = "edu"\n')
    return machine


def test_the_c_example_is_an_ordinary_program_that_runs(ioas_run: list[str], edu: Path) -> None:
    assert_tells(check([*ioas_run, "--", edu, "0000:01:00.0"]))


def test_the_python_example_is_an_ordinary_program_that_runs(ioas_run: list[str]) -> None:
    place = "0000:05:00.0"
    program = [sys.executable, EXAMPLES / "edu.py", place]
    assert_tells(check([*ioas_run, "--device", f"edu,addr={place}", "--", *program]))


def test_the_stopped_dma_is_explained(ioas_run: list[str], edu: Path) -> None:
    done = subprocess.run(
        [*ioas_run, "--explain", "--", edu, "0000:01:00.0"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "0000:01:00.0" in done.stderr
    assert "0x100000" in done.stderr


def test_the_ordinary_examples_know_nothing_of_ioas() -> None:
    code = (EXAMPLES / "edu.py").read_text().partition('"""')[2].partition('"""')[2]
    assert "import ioas" not in code
    assert "ioas.h" not in (EXAMPLES / "edu.c").read_text()


@pytest.mark.parametrize("program", ["edu.py", "edu"])
def test_a_device_that_is_not_there_is_a_message_and_status_1(program: str, edu: Path) -> None:
    command = [edu] if program == "edu" else [sys.executable, EXAMPLES / program]
    for arguments, message in [([], "usage: "), (["0000:ff:1f.7"], "No such file or directory")]:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("headers", ["the machine's", "7.3's"])
def test_the_c_example_compiles_without_a_warning(
    headers: str, cc: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    include = [] if headers == "the machine's" else ["-isystem", request.getfixturevalue("uapi_headers")]
    command = [cc, "-O2", "-Wall", "-Wextra", "-Werror", *include, "-o", tmp_path / "edu", EXAMPLES / "edu.c"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(tmp_path / "edu", os.X_OK)
