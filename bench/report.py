"""What a benchmark says: one line for each measurement, with its budget, or without one as a yardstick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A median in `unit`; `budget` is the most it may be, in the same unit (None: a yardstick)."""

    name: str
    value: float
    unit: str
    budget: float | None = None

    @property
    def verdict(self) -> str:
        """Whether it is "ok" or "over"; empty for a yardstick."""
        if self.budget is None:
            return ""
        return "ok" if self.value <= self.budget else "over"

    def __str__(self) -> str:
        budget = "" if self.budget is None else f"{self.budget:>10.4g}"
        return f"{self.name:<72}{self.value:>10.4g} {self.unit:<6}{budget:>10}  {self.verdict}".rstrip()
