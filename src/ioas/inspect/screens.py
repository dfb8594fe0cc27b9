"""What the commands show, made of rich's trees, tables and texts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, RenderableType
from rich.text import Text
from rich.tree import Tree

from ioas.inspect.case import PURPOSES, Case, Finding
from ioas.inspect.doctor import Diagnosis
from ioas.inspect.inventory import Function, Group, Inventory, Unit, ids
from ioas.inspect.machine import Machine

_ENDLESS = 10_000
"""Columns of what is no terminal."""


def show(parts: Iterable[RenderableType], machine: Machine) -> None:
    """Print to standard output, in colour on a terminal, and to standard error what could not be read.

    Single lines are never broken, for they may be commands to copy; trees only to fit a terminal.
    """
    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else _ENDLESS)
    for part in parts:  # looking for places to break lines takes a tenth of the time for a tree of thousands
        console.print(part, soft_wrap=not terminal or isinstance(part, Text))
    complaints = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for path, reason in machine.unreadable.items():
        complaints.print(f"ioas: {path}: {reason}")


def inventory_trees(inventory: Inventory) -> Iterable[Tree]:
    """A tree for each IOMMU, and one of what stands behind none."""
    functions = {function.bdf: function for function in inventory.functions}
    trees = {unit.name: Tree(_unit(unit)) for unit in inventory.units}
    for group in inventory.groups:
        members = [functions[bdf] for bdf in group.functions if bdf in functions]
        unit = _behind(members)
        tree = trees.setdefault(unit, Tree(Text(unit)))
        if len(members) == 1:  # as most are: one line for both
            tree.add(_group(group).append(" ").append_text(_function(members[0])))
            continue
        branch = tree.add(_group(group))
        for member in members:
            branch.add(_function(member))
    alone = [function for function in inventory.functions if function.group is None]
    if alone or not inventory.functions:
        rest = trees[""] = Tree("without an IOMMU" if alone else "no PCI devices")
        for function in alone:
            rest.add(_function(function))
    return trees.values()


def _behind(members: Sequence[Function]) -> str:
    """The IOMMU that a group's members are behind, or what there is in place of one."""
    if any((member.vfio or "").startswith("noiommu") for member in members):
        return "no-IOMMU mode of VFIO: nothing translates or stops DMA"
    return next((member.unit for member in members if member.unit is not None), "an IOMMU that has no name")


def _unit(unit: Unit) -> Text:
    bits = None if unit.bits is None else f"{unit.bits} bits"
    remaps = {True: "remaps interrupts", False: "cannot remap interrupts", None: None}[unit.interrupt_remapping]
    return Text(", ".join(filter(None, [f"{unit.name} ({unit.kind})", bits, remaps])))


def _group(group: Group) -> Text:
    return Text(f"group {group.number}" + (f" ({group.type})" if group.type not in (None, "DMA", "unknown") else ""))


def _function(function: Function) -> Text:
    line = Text.assemble((function.bdf, "bold"), f" {function.kind} {ids(function)}")
    if function.driver is not None:
        line.append(f" {function.driver}", "green" if function.vfio else "yellow")
    if function.vfio is not None:
        line.append(f" /dev/vfio/devices/{function.vfio}")
    return line


_COLOURS = {"ok": "green", "warning": "yellow", "no": "bold red", "unknown": "yellow", "yes": "green"}
_LABEL = 16
"""Columns before the sentences of a diagnosis."""


def diagnosis_lines(case: Case, diagnosis: Diagnosis) -> Iterator[Text]:
    """The answer, then every check with what it found; commands stand alone on their lines, to be copied."""
    function = case.function
    answer = "yes, with a warning" if diagnosis.answer == "yes" and diagnosis.of("warning") else diagnosis.answer
    numa = None if function.numa_node is None else f"NUMA node {function.numa_node}"
    about = ", ".join(filter(None, [f"{function.kind} {ids(function)}", numa, function.link]))
    yield Text(f"{function.bdf} ({about}) for {PURPOSES[case.purpose]}: ", "bold").append(
        answer, _COLOURS[diagnosis.answer]
    )
    for name, finding in diagnosis.findings:
        yield _labelled(name, f"{finding.verdict:<8}", _COLOURS[finding.verdict]).append(finding.text)
        yield from _advice(finding)
    for line in diagnosis.how:
        yield _labelled("how", line)


def _advice(finding: Finding) -> Iterator[Text]:
    if finding.culprit is not None and finding.verdict != "ok":
        yield _labelled("", f"to blame: {finding.culprit}")
    if finding.remedy is not None:
        yield _labelled("", f"do:       {finding.remedy}")
    for command in finding.commands:
        yield _labelled("", f"# {command}", "cyan")
    if finding.check is not None:
        yield _labelled("", f"see:      {finding.check}")


def _labelled(label: str, text: str, style: str = "") -> Text:
    return Text(f"  {label:<{_LABEL - 2}}").append(text, style)
