"""A clear end for the program when the supervisor is killed.

The kernel kills the program itself together with the supervisor (PR_SET_PDEATHSIG), but not its descendants. Their
calls would fail with ENOSYS one by one, as if the kernel had lost open(2). So a second process stands by, out of reach
of what kills the supervisor's process group. It notices the end of the supervisor by a pipe, and then kills whoever is
in the program's mount namespace, whoever waits for an answer, and whoever makes a call that is handed over, until
nobody is left. Where there is no namespace, a process that makes no such call goes on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
from typing import NoReturn

from ioas.run.listener import Gone, Listener

_DISMISSED = b"."


class Guardian:
    """The process that stands by."""

    def __init__(self, listener: Listener, program: int, stage: str | None) -> None:
        """Start it. `program`: its process id; `stage`: the directory that the program sees as /dev and /sys, if any.

        Call it while this process has one thread that matters: the child uses nothing that another could hold.
        """
        self.served = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("I")
        """The first number says whose call is being served, 0: nobody's. Written for each call: no method's time."""
        namespace = _namespace(program) if stage else None
        reading, self._writing = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writing)
            self._stand_by(reading, listener, namespace, stage)
        os.close(reading)

    def dismiss(self) -> None:
        """The supervisor ends in order."""
        with contextlib.suppress(OSError):
            os.write(self._writing, _DISMISSED)
        os.close(self._writing)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _stand_by(self, reading: int, listener: Listener, namespace: str | None, stage: str | None) -> NoReturn:
        try:
            os.setsid()  # out of reach of what is meant for the group
            if not os.read(reading, 1):
                self._end_all(listener, namespace)
                if stage:
                    shutil.rmtree(stage, ignore_errors=True)
        finally:
            os._exit(0)

    def _end_all(self, listener: Listener, namespace: str | None) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"ioas: the supervisor has been killed; the program is ended\n")
        _kill(self.served[0])
        if namespace:
            for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
                if _namespace(process) == namespace:
                    _kill(process)
        while not listener.deserted():
            with contextlib.suppress(Gone):
                _kill(listener.receive().thread)


def _kill(thread: int) -> None:
    if thread:
        with contextlib.suppress(OSError):
            os.kill(thread, signal.SIGKILL)


def _namespace(process: int) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:
        return None
