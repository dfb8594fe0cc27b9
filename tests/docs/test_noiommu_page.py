"""What docs/noiommu.md shows is what the example prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support import lanes

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/noiommu.md"
COMPILE, RUN = "$ cc -O2 -o noiommu examples/noiommu.c", "$ ioas run "


def shown() -> list[str]:
    """The lines of the transcript."""
    match = re.search(r"^```\n(\$ .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert match
    return match[1].splitlines()


def settled(lines: list[str]) -> list[str]:
    """Where memory is, and whether a huge page was free, differ from run to run."""
    kinds = {"memory: a huge page, physically contiguous: yes": "memory: 2 ordinary pages, locked"}
    return [re.sub(r"0x[0-9a-f]{5,}", "0xFRAME", kinds.get(line, line)) for line in lines]


def test_the_transcript_is_a_real_one(cc: str, tmp_path: Path) -> None:
    compiled, command, *printed = shown()
    assert compiled == COMPILE
    subprocess.run([cc, "-O2", "-o", tmp_path / "noiommu", ROOT / "examples/noiommu.c"], check=True)
    assert command.startswith(RUN)
    words = [sys.executable, "-m", "ioas", "run", *command.removeprefix(RUN).split()]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    if done.returncode == 125:
        lanes.require("run", done.stderr.strip())
    told = [line for line in done.stderr.splitlines() if "mount namespace is not allowed" not in line]
    assert settled([*done.stdout.splitlines(), *told]) == settled(printed)


def test_options_that_are_named_exist() -> None:
    known = ""
    for words in (["ioas", "run"], ["tests.differential"]):
        asked = [sys.executable, "-m", *words, "--help"]
        known += subprocess.run(asked, capture_output=True, text=True, cwd=ROOT).stdout
    known += (ROOT / "examples/noiommu.c").read_text()
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE.read_text()))
    assert {option for option in named if option not in known} == set()
