"""What `ioas run` says on standard error: refusals, faults, pins by address, the summary.

Each message is one line and one write, beginning with "ioas: ", so that it does not mix with the program's own output.
Warnings that the user must see come always; explanations only with --explain.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections import Counter
from typing import TYPE_CHECKING, TextIO

from ioas.errors import KernelError, Refusal
from ioas.host.maps import Vma
from ioas.soft.iommu.taint import Taint

if TYPE_CHECKING:
    from ioas.soft.pci import Failure

_STDERR = 2
_NO_BREAK = str.maketrans({"\n": "\\n", "\r": "\\r"})


class Reporter:
    """Writes messages and counts what the summary shows. Safe to use from any thread."""

    def __init__(self, *, explain: bool, summary: bool, record: TextIO | None = None) -> None:
        """`record` takes each refusal as a line of JSON."""
        self.explain = explain
        self._record = record
        self.summary = summary
        self.calls: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.taints: list[Taint] = []
        self.faults = 0
        self.failures = 0
        self.bytes_read = 0
        self.bytes_written = 0
        self.by_address = 0
        self._said: set[str] = set()

    def say(self, message: str) -> None:
        """Write one line."""
        with contextlib.suppress(OSError):  # standard error may be closed
            os.write(_STDERR, f"ioas: {message.translate(_NO_BREAK)}\n".encode(errors="replace"))

    def warn_once(self, message: str) -> None:
        """Write one line unless it has been written before."""
        if message not in self._said:
            self._said.add(message)
            self.say(message)

    def explained(self, message: str) -> None:
        """Write one line, with --explain."""
        if self.explain:
            self.say(message)

    @property
    def wants_refusals(self) -> bool:
        """Whether what a refused call said is shown or recorded."""
        return self.explain or self._record is not None

    def refused(self, thread: int, process: int, call: str, name: str, error: KernelError) -> None:
        """A call has been refused; `name` is what the summary counts it under."""
        self.refusals[f"{name} {error.refusal.name}"] += 1
        if self.explain:
            culprit = f" ({error.refusal.culprit})" if error.refusal.culprit else ""
            result = f"-1 {error.refusal.name}"
            self.say(f"{who(thread, process)}: {call} = {result}: {error.refusal.reason}{culprit}")
        if self._record is not None:
            self._write(self._record, who(thread, process), call, name, error.refusal)

    def _write(self, record: TextIO, process: str, call: str, name: str, refusal: Refusal) -> None:
        """A line of the record, whole even if several threads write."""
        culprit = refusal.culprit and {"kind": refusal.culprit.kind, "name": refusal.culprit.name}
        line = {"process": process, "name": name, "call": call, "errno": refusal.name, "reason": refusal.reason}
        try:
            record.write(json.dumps({**line, "culprit": culprit}) + "\n")
            record.flush()
        except OSError as error:  # a full disk, say
            self.warn_once(f"the record of refusals is not whole, it cannot be written: {error.strerror}")

    def tainted(self, taint: Taint) -> None:
        """The machine's kernel is tainted."""
        self.taints.append(taint)
        if self.explain:
            self.say(f"{taint.device}: {taint.reason}: the kernel is tainted (U)")

    def fault(self, stopped: str, reason: str) -> None:
        """A DMA has been stopped."""
        self.faults += 1
        if self.explain:
            self.say(f"{stopped}: {reason}")

    def model_failed(self, failure: Failure) -> None:
        """A device model has raised in its own code: always told, for the program sees but a device that is gone."""
        self.failures += 1
        advice = "" if self.explain else "; --explain shows the traceback"
        self.say(f"{failure}; the program sees a device that has fallen off its bus, until the bus is reset{advice}")
        if self.explain:
            for line in failure.trace():
                self.say(f"  {line}")

    def pinned_by_address(self, process: int, vma: Vma, reason: str) -> None:
        """Memory has been pinned that only its address leads to."""
        self.by_address += 1
        if self.explain:
            kind = "shared, but cannot be opened again" if vma.shared else "private to the process"
            self.warn_once(
                f"{who(process, process)}: memory {vma.start:#x}-{vma.end - 1:#x} is {kind}, and {reason}: held by its "
                "address, so DMA follows a munmap or a new mapping there (a memfd would be held by its pages)"
            )

    def bug(self, error: BaseException) -> None:
        """Something in ioas itself has failed."""
        if os.environ.get("IOAS_DEBUG"):
            traceback.print_exception(error, file=sys.stderr)
        where = traceback.extract_tb(error.__traceback__)
        place = f" at {os.path.basename(where[-1].filename)}:{where[-1].lineno}" if where else ""
        kind = type(error).__name__
        advice = "please report it with the command that you ran; IOAS_DEBUG=1 shows where it comes from"
        self.warn_once(f"internal error{place}: {kind}: {error}; {advice}")

    def summarise(self) -> None:
        """Write the summary."""
        self.say(f"summary: {_count(sum(self.calls.values()), 'call')}, {sum(self.refusals.values())} refused")
        for title, counter in (("call", self.calls), ("refused", self.refusals)):
            for name, count in sorted(counter.items(), key=lambda item: (-item[1], item[0])):
                self.say(f"summary: {count:>9}  {title} {name}")
        for taint in self.taints:
            self.say(f"summary: kernel tainted (U) by {taint.device}: {taint.reason}")
        moved = f"devices read {_count(self.bytes_read, 'byte')} and wrote {_count(self.bytes_written, 'byte')} by DMA"
        stopped = f"{_count(self.faults, 'DMA fault')}, {_count(self.by_address, 'pin')} by address"
        failed = f", {_count(self.failures, 'failure')} of device models" if self.failures else ""
        self.say(f"summary: {moved}; {stopped}{failed}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def who(thread: int, process: int) -> str:
    """A process as messages name it: ``driver[1234]``, with the thread where that is another one."""
    try:
        with open(f"/proc/{thread}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read().strip()
    except OSError:
        name = "process"
    return f"{name}[{process}]" if thread == process else f"{name}[{process}, thread {thread}]"
