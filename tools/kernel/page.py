"""docs/conformance.md: what the last run printed, put there by the run itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/conformance.md"
HEADINGS = {True: "## As root", False: "## As an ordinary user"}


def write(text: str, path: Path = PAGE) -> None:
    """Put `text` in the place of the first block under the heading of who runs this. Raises ValueError without one."""
    before, heading, rest = path.read_text().partition(f"{HEADINGS[not os.geteuid()]}\n")
    block = re.search(r"^```\n.*?^```$", rest, re.MULTILINE | re.DOTALL)
    if block is None:
        raise ValueError(f"{path} has no block to replace")
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    path.write_text(f"{before}{heading}{rest[: block.start()]}```\n{lines}\n```{rest[block.end() :]}")
