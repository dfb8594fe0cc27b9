"""Random scripts: hypothesis strategies for sequences of calls that meet each other.

Arguments come from small pools - the same pages, neighbouring addresses, ids that are there, were there, are nearly
there or are something else's - so that a call finds what others have left. A script is plain data (see
`executor.world` for its steps) and depends on nothing but the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from tests.differential import (
    compat_steps,
    device_steps,
    group_steps,
    memory_steps,
    noiommu_steps,
    space_steps,
    table_steps,
)
from tests.differential.arguments import Draw, Script, Step, World

_STEPS_LEAST, _STEPS_MOST = 20, 110
_AT_ONCE = 10
_SEEDS = 1 << 20
"""How many scripts a number stands for, at most."""
Makers = list[tuple[int, Callable[[World], Step]]]


def _tables(world: World) -> Makers:
    return space_steps.weighted(world) + table_steps.weighted(world) * 2


def _compat(world: World) -> Makers:
    return compat_steps.weighted(world) + space_steps.weighted(world)


def _memory(world: World) -> Makers:
    return space_steps.weighted(world) + memory_steps.weighted(world)


def _processes(world: World) -> Makers:
    return _memory(world) + memory_steps.forks(world)


def _container(world: World) -> Makers:
    return group_steps.weighted(world) + memory_steps.weighted(world) + memory_steps.children(world)


KINDS: dict[str, tuple[int, Callable[[World], Makers]]] = {
    "space": (6, space_steps.weighted),
    "tables": (3, _tables),
    "memory": (3, _memory),
    "processes": (2, _processes),
    "device": (2, device_steps.weighted),
    "compat": (2, _compat),
    "group": (4, group_steps.weighted),
    "container": (2, _container),
    "noiommu": (1, noiommu_steps.weighted),
}
"""Kinds of scripts: how many of each, and the steps that they are made of."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "iommu": tuple(kind for kind in KINDS if kind != "noiommu"),
    "iommufd-container": ("group", "container"),
    "noiommu": ("noiommu",),
}
"""The kinds of scripts that are worth asking a variant of the guest."""
_LIMITED = ("space", "group")
"""Kinds in which a limit of locked memory shows."""
_BEGINNINGS: dict[str, Callable[[World], list[Step]]] = {
    "device": lambda world: device_steps.beginning(),
    "tables": table_steps.beginning,
    "compat": compat_steps.beginning,
    "group": group_steps.beginning,
    "container": group_steps.beginning,
    "noiommu": noiommu_steps.beginning,
}


@st.composite
def scripts(draw: Draw, variant: str, kinds: Sequence[str]) -> Script:
    """One script of these kinds, for a variant of the guest."""
    kind = draw(st.sampled_from([name for name in kinds for _ in range(KINDS[name][0])]))
    world = World(draw, kind)
    makers = [make for weight, make in KINDS[kind][1](world) for _ in range(weight)]
    steps = _BEGINNINGS.get(kind, space_steps.beginning)(world)
    for _ in range(draw(st.integers(_STEPS_LEAST, _STEPS_MOST))):
        steps.append(world.choose(makers)(world))
    limit = draw(st.sampled_from([None, None, 1, 8, 20])) if kind in _LIMITED else None
    return {"kind": kind, "variant": variant, "limit": limit, "steps": steps}


def generate(number: int, count: int, variant: str = "iommu", kinds: Sequence[str] = ()) -> list[Script]:
    """`count` scripts, the same for the same `number`; of some kinds, or of all that a variant is asked."""
    found: list[Script] = []
    while len(found) < count:
        found += _some(number * _SEEDS + len(found), variant, kinds or VARIANTS[variant])
    return found[:count]


def _some(number: int, variant: str, kinds: Sequence[str]) -> list[Script]:
    """A few scripts; more from one seed would be variations of them."""
    found: list[Script] = []

    @seed(number)
    @settings(
        max_examples=_AT_ONCE + 1,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(scripts(variant, kinds))
    def take(script: Script) -> None:
        found.append(script)

    take()
    return found[1:]  # the first is the simplest there is


def calls(script: Script) -> int:
    """How many calls a script makes, at least."""
    return len(script["steps"])
