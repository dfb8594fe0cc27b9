"""Differences between hosts, and the shortest scripts that show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tests.differential.arguments import Script
from tests.differential.hosts import Answers, Host


class Difference(NamedTuple):
    """The first step of a script that two hosts answered differently."""

    script: Script
    index: int
    ours: str
    linux: str

    @property
    def command(self) -> str:
        """What the step does."""
        steps = self.script["steps"]
        return command_of(steps[self.index]) if self.index < len(steps) else "end"

    @property
    def signature(self) -> tuple[str, str, str]:
        """What makes it the same difference in another script: the command, and what it came to on both hosts."""
        return self.command, outcome_of(self.ours), outcome_of(self.linux)


def command_of(step: Sequence[Any]) -> str:
    """The request or the verb of a step."""
    if step[1] == "call":
        return str(step[3])
    return f"request {step[3]:#x}" if step[1] == "request" else str(step[1])


def outcome_of(answer: str) -> str:
    """The result at the head of an answer: an errno's name, or nothing where the call succeeded."""
    word = answer.partition(" ")[0]
    return word if word.isupper() and word.isalnum() else ""


def differences(scripts: Sequence[Script], ours: Answers, linux: Answers) -> Iterator[Difference]:
    """The first difference of each script that has one."""
    for script, here, there in zip(scripts, ours, linux, strict=True):
        if here != there:
            length = max(len(here), len(there))
            padded = [[*lines, *["nothing"] * (length - len(lines))] for lines in (here, there)]
            index = next(index for index, pair in enumerate(zip(*padded, strict=True)) if pair[0] != pair[1])
            yield Difference(script, index, *(lines[index] for lines in padded))


class Reducer:
    """Makes scripts shorter as long as the difference stays (delta debugging: Zeller and Hildebrandt, 2002)."""

    def __init__(self, host: Host, linux: Host) -> None:
        self._hosts = host, linux

    def reduce(self, difference: Difference) -> Difference:
        """The shortest script found that shows the difference; in it, every step is needed."""
        steps = difference.script["steps"][: difference.index + 1]
        best = self._first(difference, [steps])
        if best is None:
            return difference
        size = max(len(best.script["steps"]) // 2, 1)
        while True:
            found = self._first(difference, list(_without(best.script["steps"], size)))
            if found is not None:
                best = found
                size = min(size, max(len(best.script["steps"]) // 2, 1))
            elif size == 1:
                return best
            else:
                size = (size + 1) // 2

    def _first(self, wanted: Difference, candidates: Sequence[list[Any]]) -> Difference | None:
        """The shortest of some scripts that shows the difference: all are tried at once, for a guest is slow to ask."""
        scripts = [wanted.script | {"steps": steps} for steps in candidates]
        for host in self._hosts:
            host.ask(scripts)
        ours, linux = (host.answers() for host in self._hosts)
        found = [each for each in differences(scripts, ours, linux) if each.signature == wanted.signature]
        cut = [each._replace(script=each.script | {"steps": each.script["steps"][: each.index + 1]}) for each in found]
        return min(cut, key=lambda each: len(each.script["steps"]), default=None)


def _without(steps: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """The steps without each run of `size`; the last step stays, which is the one that differs.

    So does a step that brings a device into a known state: what others left there is no difference.
    """
    for start in range(0, len(steps) - 1, size):
        end = min(start + size, len(steps) - 1)
        kept = [step for step in steps[start:end] if step[1] == "settle"]
        if len(kept) < end - start:
            yield [*steps[:start], *kept, *steps[end:]]
