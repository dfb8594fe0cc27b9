"""A campaign: sequence after sequence, until there were enough calls; what goes wrong is shortened and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.fuzz import sequences

_SAY_EVERY = 50_000


class Campaign:
    """The sequences of one seed. `say` is told what goes wrong, once for each kind, and how far it has come."""

    def __init__(self, seed: int, say: Callable[[str], None]) -> None:
        self.seed = seed
        self.calls = 0
        self.sequences = 0
        self.kinds: Counter[str] = Counter()
        """How many sequences went wrong in which way."""
        self._say = say

    def run(self, calls: int) -> None:
        """Play sequences until there were `calls` calls."""
        said = 0
        while self.calls < calls:
            self.play(self.sequences)
            if self.calls >= said + _SAY_EVERY:
                said = self.calls - self.calls % _SAY_EVERY
                self._say(f"{said} calls, {self.kinds.total()} sequences wrong")

    def play(self, number: int) -> None:
        """Play one sequence."""
        played = sequences.play(self.seed, number)
        self.calls += played.calls
        self.sequences += 1
        wrong = played.wrong
        if wrong is None:
            return
        self.kinds[wrong.kind] += 1
        if self.kinds[wrong.kind] == 1:
            steps = sequences.shorten(self.seed, number, wrong)
            again = sequences.play(self.seed, number, steps).wrong or wrong
            self._say(f"sequence {number} of seed {self.seed}, steps {', '.join(map(str, steps))}: {again.kind}")
            self._say(again.text)
