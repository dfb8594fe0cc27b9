"""What a campaign has reached: which commands came to which results, and which refusals of ours never happened."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.differential.arguments import Script
from tests.differential.compare import command_of, outcome_of
from tests.differential.hosts import ROOT, Answers

_SOURCES = (ROOT / "src/ioas/soft/iommufd", ROOT / "src/ioas/soft/vfio")


class Site(NamedTuple):
    """A place in the software host that refuses."""

    file: Path
    line: int
    function: str
    errno: str


class Reached:
    """Counts outcomes by command."""

    def __init__(self) -> None:
        self._outcomes: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, scripts: Sequence[Script], answers: Answers) -> None:
        """Count a batch, as the kernel answered it."""
        for script, lines in zip(scripts, answers, strict=True):
            for step, line in zip(script["steps"], lines, strict=False):
                self._outcomes[command_of(step)][outcome_of(line) or "ok"] += 1

    def lines(self) -> Iterator[str]:
        """A line for each command: how often it came to what."""
        for command in sorted(self._outcomes, key=lambda name: (name.islower(), name)):
            counts = " ".join(f"{name} {count}" for name, count in self._outcomes[command].most_common())
            yield f"{command:16} {counts}"


def sites() -> list[Site]:
    """Every place in the software host's iommufd and VFIO that makes a refusal."""
    return [site for source in _SOURCES for file in sorted(source.rglob("*.py")) for site in _sites_in(file)]


def _sites_in(file: Path) -> Iterator[Site]:
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "refuse":
                    errno = node.args[0].id if isinstance(node.args[0], ast.Name) else "an error by the case"
                    yield Site(file, node.lineno, function.name, errno)


def refusals(reached: Mapping[str, int], every: bool) -> Iterator[str]:
    """How many places have refused; with `every`, those that have not as well."""
    known = sites()
    missing = [site for site in known if f"{site.file}:{site.line}" not in reached]
    yield f"{len(known) - len(missing)} of {len(known)} places in the software host that refuse have refused"
    for site in missing if every else ():
        yield f"  {site.file.relative_to(ROOT / 'src')}:{site.line} {site.function}: {site.errno}"
