"""The files that docs/testing.md shows are real: in a directory they pass, and complain where the page says so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/testing.md").read_text()
FILES = dict(re.findall(r"^```\w+ ([\w.]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "ioas.testing.plugin", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--strict-markers", "--ioas-host=soft", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_tests_of_the_page_pass(place: Path) -> None:
    done = run(place, "-rs")
    tests = sum(text.count("\ndef test_") for text in FILES.values())
    skipped = done.stdout.count("`ioas run` does not work here")
    assert done.returncode == 0, done.stdout
    assert f" {tests - skipped} passed" in done.stdout


def test_what_is_left_behind_is_told_as_the_page_says(place: Path) -> None:
    test = place / "test_copier.py"
    test.write_text(test.read_text().replace("    copier.close()\n", ""))
    (shown,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    done = run(place, "test_copier.py")
    assert shown in done.stdout
    assert "1 passed, 1 error" in done.stdout
