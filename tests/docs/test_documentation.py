"""The documentation is true: its Python runs, its links lead somewhere, the files that it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Where a path in a text may be meant from.
BASES = [
    ROOT,
    *(
        ROOT / "src" / part
        for part in ("", "ioas", "ioas/soft", "ioas/soft/iommufd", "ioas/soft/iommu", "ioas/soft/vfio")
    ),
]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", [text for page in PAGES for text in blocks(page, "python")])
def test_python_in_the_documentation_runs(text: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, cwd=ROOT)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_shows_the_python_api() -> None:
    assert blocks(ROOT / "README.md", "python")


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    names = re.findall(r"`([\w./-]+\.(?:py|c|toml|md|sh))`", page.read_text())

    assert [name for name in names if "NAME" not in name and not any((base / name).exists() for base in BASES)] == []
