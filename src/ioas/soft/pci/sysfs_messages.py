"""The interrupt numbers of a function's messages in sysfs: `irq` and `msi_irqs` (drivers/pci/msi/msi.c, 7.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from ioas.soft.pci.function import Function
from ioas.soft.pci.nodes import Text, Tree
from ioas.soft.pci.sysfs_function import path_of

_FIRST = 24
"""The first number that is not a pin's of the I/O APIC."""


class MessageNumbers:
    """Gives numbers to the messages of a machine's functions, and shows them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._taken: set[int] = set()
        self._shown: dict[str, tuple[list[int], bytes | Callable[[], bytes]]] = {}

    def changed(self, function: Function, kind: str | None, count: int) -> None:
        """`function` has `count` messages of `kind` ("msi" or "msix") enabled, or none of any (None)."""
        self._hide(function)
        if kind is None:
            return
        free = (number for number in itertools.count(_FIRST) if number not in self._taken)
        numbers = list(itertools.islice(free, count))
        self._taken.update(numbers)
        path, irq = path_of(function), self._irq(function)
        self._shown[str(function.bdf)] = numbers, irq.contents
        for number in numbers:
            self._tree.add(f"{path}/msi_irqs/{number}", Text(f"{kind}\n".encode()))
        if kind == "msi":
            irq.contents = f"{numbers[0]}\n".encode()

    def _hide(self, function: Function) -> None:
        numbers, contents = self._shown.pop(str(function.bdf), ([], b""))
        if numbers:
            self._taken.difference_update(numbers)
            self._tree.remove(f"{path_of(function)}/msi_irqs")
            self._irq(function).contents = contents

    def _irq(self, function: Function) -> Text:
        node = self._tree.get(f"{path_of(function)}/irq")
        if not isinstance(node, Text):
            raise TypeError("irq is no text")
        return node
