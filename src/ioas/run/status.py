"""/proc/PID/status: reading it, and showing a program the pins that the software machine keeps for it.

The kernel counts pinned pages in mm->pinned_vm (VmPin) and locked ones in mm->locked_vm (VmLck). Ours are counted in
`Space`; the numbers of the file are raised by them in place, and every other byte stays as the kernel wrote it, because
programs read this file line by line at fixed positions.
"""

from __future__ import annotations

import re

from ioas.host import PAGE_SIZE
from ioas.run.memory import Space

_COUNTER = re.compile(rb"^(VmLck|VmPin):(\t *)(\d+) kB$", re.MULTILINE)


def read_status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status of a process or thread, as text. Raises OSError."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def with_pins(text: bytes, space: Space) -> bytes:
    """The text of a status file with the machine's pins of `space` added to the kernel's."""
    pages = {b"VmLck": space.locked_pages, b"VmPin": space.pinned_pages}

    def raised(match: re.Match[bytes]) -> bytes:
        name, gap, number = match.groups()
        total = int(number) + pages[name] * (PAGE_SIZE // 1024)
        return b"%s:\t%*d kB" % (name, len(gap) - 1 + len(number), total)

    return _COUNTER.sub(raised, text)
