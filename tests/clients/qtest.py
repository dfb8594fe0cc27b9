"""The ports and memory of a machine in QEMU, by its qtest protocol (docs/devel/testing/qtest.rst)."""

from __future__ import annotations

import subprocess

SLOT, BAR = 3 << 11, 0xE0000000
MEMORY_AND_MASTER = 6


class Guest:
    """A machine whose QEMU was started with ``-qtest stdio`` and has our device in slot 3."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, *words: str | int) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = " ".join(hex(word) if isinstance(word, int) else word for word in words)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = next((each for each in self.process.stdout if each.startswith(("OK", "FAIL"))), "the end")
        assert answer.startswith("OK"), f"{line}: {answer}"
        return int(answer.split()[1], 16) if len(answer.split()) > 1 else 0

    def config_read(self, offset: int) -> int:
        self.ask("outl", 0xCF8, 0x80000000 | SLOT | offset)
        return self.ask("inl", 0xCFC)

    def config_write(self, offset: int, value: int) -> None:
        self.ask("outl", 0xCF8, 0x80000000 | SLOT | offset)
        self.ask("outl", 0xCFC, value)
