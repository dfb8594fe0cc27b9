"""`ioas run --check`: what this environment allows, and what is degraded where it does not.

Each mechanism is tried out, not guessed from versions: a child is put under a filter, and what the supervisor would do to it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

Verdict = Literal["ok", "degraded", "missing"]


class Finding(NamedTuple):
    """One mechanism: whether it works, and what its absence means."""

    name: str
    verdict: Verdict
    text: str


def check_environment() -> list[Finding]:
    """Try everything that `ioas run` stands on. With any "missing" among the answers, programs cannot be run."""
    raise NotImplementedError


__all__ = ["Callable", "Finding", "check_environment"]
