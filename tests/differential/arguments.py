"""Pools of arguments that random calls draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

PAGE = 4096
ULONG_MAX = (1 << 64) - 1
U32_MAX = (1 << 32) - 1
MEMORY = 0x2000_0000_0000
SCRATCH = MEMORY + (64 << 20)
NOWHERE = 0x2FFF_0000_0000
PAGES = 32
BASE = 16 << 20
"""Where the aperture of a mock device begins, and most mappings stand."""
Script = dict[str, Any]
Step = list[Any]
T = TypeVar("T")
_IDS = ("ioas", "mock", "table", "device")


class Draw(Protocol):
    """What hypothesis hands to a composite strategy."""

    def __call__(self, strategy: st.SearchStrategy[T]) -> T: ...


class World:
    """Draws arguments for one script; `granule` is what most of its lengths and addresses are multiples of."""

    def __init__(self, draw: Draw, kind: str) -> None:
        self._draw = draw
        self.kind = kind
        self.granule = self.choose((PAGE, PAGE, PAGE, PAGE, 2048, 2048, 509))
        self.forks = kind in ("processes", "container")

    def choose(self, pool: Sequence[T]) -> T:
        """One of these."""
        return self._draw(st.sampled_from(pool))

    def number(self, least: int, most: int) -> int:
        """A number from a range, both ends included."""
        return self._draw(st.integers(least, most))

    def percent(self, chance: int) -> bool:
        """True so often of a hundred times."""
        return self._draw(st.integers(0, 99)) >= 100 - chance

    def who(self) -> int:
        """Which process calls."""
        return self.choose((0, 0, 0, 1, 2)) if self.forks else 0

    def iommufd(self) -> list[Any]:
        """Which iommufd is asked, nearly always the same one."""
        return ["iommufd", 1 if self.percent(4) else 0]

    def id(self, *kinds: str) -> Any:
        """An id, nearly always of something of these kinds."""
        if self.percent(92):
            return [self.choose(kinds), self.choose((0, 0, 0, 0, 0, 1, 1, 1, 2, 3))]
        return self.choose((*([kind, 0] for kind in _IDS), ["gone", 0], ["gone", 1], ["next", 0], 0, U32_MAX))

    def length(self, most: int = 8) -> int:
        """A length in bytes, mostly of up to `most` granules."""
        if self.percent(5):
            return self.choose((0, 1, 7, 2048, PAGE + 1, ULONG_MAX, ULONG_MAX - 1, 1 << 63, -BASE & ULONG_MAX))
        return self.granule * self.number(1, most)

    def iova(self) -> int:
        """An IOVA, mostly near the others."""
        if self.percent(5):
            odd = (0, 5, PAGE, BASE - PAGE, (1 << 31) - PAGE, 1 << 31, ULONG_MAX, ULONG_MAX - 1, ULONG_MAX - PAGE + 1)
            return self.choose(odd)
        return BASE + self.granule * self.number(0, 23) + self._off()

    def address(self) -> int:
        """A user address; seldom outside of the memory that is there."""
        if self.percent(2):
            return self.choose((0, NOWHERE, ULONG_MAX - PAGE + 1, 0xFFFF_8880_0000_0000, 1 << 47))
        return MEMORY + self.granule * self.number(0, PAGES * PAGE // self.granule) + self._off()

    def _off(self) -> int:
        return self.choose((1, -1, 5)) if self.percent(2) else 0

    def mapping(self) -> Mapping:
        """A mapping that is there."""
        return Mapping(self)

    def flags(self) -> int:
        """Flags of a mapping: FIXED 1, WRITEABLE 2, READABLE 4."""
        return self.choose((7, 7, 7, 7, 7, 6, 6, 6, 5, 3, 4, 2, 1, 0, 15))

    def page(self) -> int:
        """A page of the memory for DMA."""
        return self.number(0, PAGES - 1)

    def call(self, target: list[Any], name: str, **fields: Any) -> Step:
        """A call with a structure; now and then one that is too short or long, or stands where it must not."""
        step: Step = [self.who(), "call", target, name, fields]
        if self.percent(3):
            step.append(self._how())
        return step

    def _how(self) -> dict[str, Any]:
        if self.percent(30):
            return {"reserved": self.choose((1, U32_MAX))}
        if self.percent(50):
            return {"at": self.choose(("edge", "edge", "null", "nowhere", "kernel"))}
        tail = self.choose(("", "00" * 8, "00" * 7 + "01", "01" + "00" * 7))
        return {"tail": tail, "size": self.choose((0, 4, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 4096, U32_MAX))}


class Mapping:
    """References to the numbers of one mapping; a part of it, its edges, or a bit beside it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._index = world.number(0, 5)
        self._whole = world.percent(60)
        self._part = 0 if self._whole else world.choose((0, 0, 0, 4, 8, 12, 16, 1))
        self._more = 0 if self._whole else world.choose((0, 0, 0, 0, 0, 0, -1, 1, -world.granule, world.granule, -PAGE))

    def space(self) -> Any:
        """Its IOAS, nearly always."""
        return ["space", self._index, 0, 0] if self._world.percent(93) else self._world.id("ioas")

    def iova(self) -> Any:
        """Somewhere in it, mostly where it begins."""
        return ["iova", self._index, self._part, self._more]

    def address(self) -> Any:
        """The user address that stands there."""
        return ["address", self._index, self._part, self._more]

    def length(self) -> Any:
        """How much of it: what is left from `iova` on, mostly, or a part or more than that."""
        if self._whole and self._world.percent(80):
            return ["length", self._index, 16, 0]
        part = self._world.choose((16 - self._part, 16 - self._part, 16 - self._part, 8, 4, 1, 16, 20))
        return ["length", self._index, part, self._world.choose((0, 0, 0, 0, -self._more, 1, -1, PAGE))]
