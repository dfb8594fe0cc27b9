"""What programs do to their memory, files and processes between calls."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential.arguments import PAGE, PAGES, Step, World

Make = Callable[[World], Step]
_DONTNEED, _DONTFORK, _DOFORK = 4, 10, 11
_SHARED_PAGES = 24
"""Pages that are not private; the others follow."""


def _range(world: World) -> tuple[int, int]:
    """Some pages, all of one kind: the first, and how many."""
    first, end = (0, _SHARED_PAGES) if world.forks or world.percent(70) else (_SHARED_PAGES, PAGES)
    page = world.number(first, end - 1)
    return page, min(world.choose((1, 1, 1, 2, 4)), end - page)


def _map(world: World) -> Step:
    page, count = _range(world)
    shared = ("shared", "shared", "file", "read-only", "none", "hole")
    sort = world.choose(shared if page < _SHARED_PAGES else ("private", "private", "hole"))
    return [world.who(), "map", page, count, sort]


def _protect(world: World) -> Step:
    page, count = _range(world)
    return [world.who(), "protect", page, count, world.choose((3, 3, 1, 0))]


def _move(world: World) -> Step:
    page, target = world.number(0, _SHARED_PAGES - 5), world.number(0, _SHARED_PAGES - 5)
    return [world.who(), "move", page, world.number(1, 4), target]


def _advise(world: World) -> Step:
    page, count = _range(world)
    return [world.who(), "advise", page, count, world.choose((_DONTNEED, _DONTFORK, _DOFORK))]


def _store(world: World) -> Step:
    return [world.who(), "store", world.page(), world.number(0, PAGE - 16), 16, world.number(0, 255)]


def _look(world: World) -> Step:
    return [world.who(), "look"]


def _truncate(world: World) -> Step:
    """Never shorter: a page that was cut off is a pinned one's no longer, which only a kernel can go on reaching."""
    return [world.who(), "truncate", world.number(0, 1), PAGES * PAGE + world.choose((0, 1, PAGE - 5, 4 * PAGE))]


def weighted(world: World) -> list[tuple[int, Make]]:
    """Every step of this kind, and how often it comes."""
    return [(6, _map), (2, _protect), (2, _move), (3, _advise), (6, _store), (3, _look), (2, _truncate)]


def _fork(world: World) -> Step:
    return [0, "fork"]


def _exit(world: World) -> Step:
    return [world.number(1, 2), "exit"]


def _change(world: World) -> Step:
    step = world.call(world.iommufd(), "CHANGE_PROCESS", __reserved=1 if world.percent(3) else 0)
    return [world.choose((0, 1, 1, 2)), *step[1:]]


def children(world: World) -> list[tuple[int, Make]]:
    """Children that come and go."""
    return [(6, _fork), (2, _exit)]


def forks(world: World) -> list[tuple[int, Make]]:
    """The same, and address spaces that change hands."""
    return [*children(world), (5, _change)]
