"""What a script has made: files, and the ids of objects; steps name them by kind and age.

A reference is `[kind, n]`: the n-th of its kind, counted round (files and what is gone: the youngest first), or
`[field, n, part, more]`: a number of the n-th youngest mapping. So a script stays one whatever is left out of it.
"""

from __future__ import annotations

from typing import NamedTuple

NO_FILE = 999
_ULONG_MAX = (1 << 64) - 1


class Mapped(NamedTuple):
    """What a successful call has mapped, as far as the script knows."""

    space: int
    iova: int
    length: int
    address: int


class Context:
    """The objects of one iommufd, by what the script thinks that they are."""

    def __init__(self) -> None:
        self.ids: dict[str, list[int]] = {}
        self.gone: list[int] = []
        self._mappings: list[Mapped] = []

    def add(self, kind: str, number: int) -> None:
        """An object was made."""
        self.ids.setdefault(kind, []).append(number)

    def remove(self, number: int) -> None:
        """An object was destroyed."""
        self.ids = {kind: [each for each in numbers if each != number] for kind, numbers in self.ids.items()}
        self.gone.append(number)
        self.unmapped(number, 0, _ULONG_MAX)

    def mapped(self, mapping: Mapped) -> None:
        """A range was mapped."""
        self._mappings.append(mapping)

    def unmapped(self, space: int, iova: int, length: int) -> None:
        """A range was unmapped."""
        self._mappings = [each for each in self._mappings if each.space != space or not 0 <= each.iova - iova < length]

    def of_mapping(self, field: str, index: int, part: int, more: int) -> int:
        """A number of the n-th youngest mapping: `part` sixteenths into it, and `more`."""
        if not self._mappings:
            return more & _ULONG_MAX
        mapping = self._mappings[-1 - index % len(self._mappings)]
        if field == "space":
            return mapping.space
        into = mapping.length * part // 16
        return ({"iova": mapping.iova, "address": mapping.address, "length": 0}[field] + into + more) & _ULONG_MAX

    def find(self, kind: str, index: int) -> int:
        """The id that a reference names; 0 when there is none. "gone" and "next" are those that are nearly there."""
        if kind == "next":
            return max((number for numbers in self.ids.values() for number in numbers), default=0) + 1 + index
        known = self.gone[::-1] if kind == "gone" else self.ids.get(kind, [])
        return known[index % len(known)] if known else 0


class OpenFile:
    """A descriptor: its number, the processes that have it, and the context that stands behind it."""

    def __init__(self, kind: str, fd: int, owners: set[int], context: Context | None = None) -> None:
        self.kind = kind
        self.fd = fd
        self.owners = owners
        self.context = context


class Files:
    """Every file of a script."""

    def __init__(self) -> None:
        self.all: list[OpenFile] = []

    def add(self, file: OpenFile) -> OpenFile:
        """A file was opened."""
        self.all.append(file)
        return file

    def find(self, who: int, kind: str, index: int) -> OpenFile | None:
        """The file that a reference names, among those that process `who` has open."""
        known = [file for file in self.all if file.kind == kind and who in file.owners]
        return known[-1 - index % len(known)] if known else None

    def closed(self, file: OpenFile, who: int) -> None:
        """Process `who` has closed its descriptor."""
        file.owners.discard(who)
        if not file.owners:
            self.all.remove(file)

    def forked(self, parent: int, child: int) -> None:
        """A child has what its parent has."""
        for file in self.all:
            if parent in file.owners:
                file.owners.add(child)

    def gone(self, child: int) -> None:
        """A process has ended."""
        for file in list(self.all):
            if child in file.owners:
                self.closed(file, child)
