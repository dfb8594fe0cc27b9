"""Children of the program: each makes the calls that it is told to make, in its own memory and as itself."""

from __future__ import annotations

import marshal
import os

from executor.system import System


class Child:
    """A forked process that waits for calls."""

    def __init__(self, system: System, others: list[Child]) -> None:
        """`others`: children made before, whose pipes are none of the new one's business."""
        here, self._to = os.pipe()
        self._from, there = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            for fd in (self._to, self._from, *(end for other in others for end in (other._to, other._from))):
                os.close(fd)
            _serve(system, here, there)
        os.close(here)
        os.close(there)

    def do(self, name: str, *arguments: object) -> object:
        """Have it call `name` of `System`."""
        _send(self._to, (name, arguments))
        return _receive(self._from)

    def end(self) -> None:
        """Let it exit, and wait for that."""
        os.close(self._to)
        os.close(self._from)
        os.waitpid(self.pid, 0)


def _serve(system: System, commands: int, answers: int) -> None:
    """Carry out calls until nobody can ask for more; does not return."""
    try:
        while (command := _receive(commands)) is not None:
            name, arguments = command
            _send(answers, getattr(system, name)(*arguments))
    finally:
        os._exit(0)


def _send(fd: int, value: object) -> None:
    data = marshal.dumps(value)
    os.write(fd, len(data).to_bytes(4, "little") + data)


def _receive(fd: int) -> object:
    """One value; None at the end."""
    head = os.read(fd, 4)
    if not head:
        return None
    data = b""
    length = int.from_bytes(head, "little")
    while len(data) < length:
        data += os.read(fd, length - len(data))
    return marshal.loads(data)
