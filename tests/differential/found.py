"""Scripts with what Linux answered, kept and replayed ever after: some at random, and those that differed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from tests.differential.arguments import Script

HERE = Path(__file__).parent / "found"
RECORDED = Path(__file__).parent / "recorded"
"""Random scripts of every kind with Linux's answers, for where there is no guest (``--record``)."""


class Found(NamedTuple):
    """A script, what it was about, and the answers of Linux."""

    about: str
    script: Script
    linux: list[str]

    @property
    def variant(self) -> str:
        """Of the guest that has answered."""
        return str(self.script.get("variant", "iommu"))

    def write(self, directory: Path, name: str) -> Path:
        """Keep it: a step to a line, with its answer; the file."""
        lines = [json.dumps([step, answer]) for step, answer in zip(self.script["steps"], self.linux, strict=False)]
        head = {"about": self.about, "kind": self.script["kind"], "limit": self.script["limit"]}
        if self.variant != "iommu":
            head["variant"] = self.variant
        text = ",\n".join([json.dumps(head), *lines, json.dumps(self.linux[len(lines) :])])
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{name.lower().replace(' ', '-')}.json"
        path.write_text(f"[{text}]\n")
        return path


def read(path: Path) -> Found:
    """A file of `Found.write`."""
    head, *pairs, rest = json.loads(path.read_text())
    script = {"kind": head["kind"], "limit": head["limit"], "steps": [step for step, _ in pairs]}
    script["variant"] = head.get("variant", "iommu")
    return Found(head["about"], script, [*(answer for _, answer in pairs), *rest])


def every() -> dict[str, Found]:
    """All that are kept, by name."""
    return {path.stem: read(path) for place in (HERE, RECORDED) for path in sorted(place.glob("*.json"))}
