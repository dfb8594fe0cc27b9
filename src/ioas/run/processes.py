"""The processes that use the machine: their address spaces, descriptors and credentials, each looked up once.

Nothing cached here can go stale unnoticed. A thread is known by its open /proc/TID/fd directory, which names nothing
any more when the thread is dead, even if its number is used again; a process by a pidfd; an address space by what
`Space.alive` says. execve and the calls that change credentials are handed over to the supervisor, which forgets here
what they change.
"""

from __future__ import annotations

import os
import select
from collections import OrderedDict
from collections.abc import Callable

from ioas.run.caller import ProcessCaller, Shared
from ioas.run.kernel import Transfer, same_memory
from ioas.run.memory import Space
from ioas.run.pins import Pinner
from ioas.run.status import read_status

_THREADS_KEPT = 64


class Process:
    """A thread group: its id, a pidfd, its address space."""

    def __init__(self, number: int, pidfd: int, space: Space) -> None:
        self.number = number
        self.pidfd = pidfd
        self.space = space
        self.executing = False
        """It has called execve since `space` was found: it may have another by now."""
        self.given = -1
        """The descriptor number that it was given last."""
        space.sharers += 1

    def ended(self) -> bool:
        """Whether every thread of it is gone."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of it."""
        self.space.sharers -= 1
        os.close(self.pidfd)


class Processes:
    """Everyone who uses the machine."""

    def __init__(
        self, pinner: Pinner, shared: Shared, watch: Callable[[int], None], unwatch: Callable[[int], None]
    ) -> None:
        """`watch` is given the pidfd of each new process: `forget` is to be called when it becomes readable.

        `unwatch` is given a pidfd that is about to be closed.
        """
        self._pinner = pinner
        self._shared = shared
        self._watch = watch
        self._unwatch = unwatch
        self.joined: Callable[[int, int], None] = lambda process, thread: None
        """Told of each thread, and its process, when it uses the machine for the first time, or again after execve."""
        self._transfer = Transfer()
        self._threads: OrderedDict[int, ProcessCaller] = OrderedDict()
        self._processes: dict[int, Process] = {}

    def caller(self, thread: int) -> ProcessCaller:
        """The caller for `thread`. Raises OSError: it is gone, or may not be looked into."""
        found = self._threads.get(thread)
        if found is None:
            found = self._threads[thread] = self._new(thread)
            if len(self._threads) > _THREADS_KEPT:
                self._threads.popitem(last=False)[1].close()
        return found

    def knows(self, thread: int) -> bool:
        """Whether `thread` has used the machine."""
        return thread in self._threads

    def forget_thread(self, thread: int) -> None:
        """`thread` is gone, or about to change its credentials."""
        caller = self._threads.pop(thread, None)
        if caller:
            caller.close()

    def executes(self) -> None:
        """Some process is about to execute a program: if that succeeds, its other threads and its memory are gone."""
        for caller in self._threads.values():
            caller.close()
        self._threads.clear()
        for process in self._processes.values():
            process.executing = True

    def forget(self, pidfd: int) -> None:
        """The process behind `pidfd` is gone."""
        for process in [found for found in self._processes.values() if found.pidfd == pidfd]:
            self._drop(process)

    def close(self) -> None:
        """Let go of everyone."""
        self.executes()
        for process in list(self._processes.values()):
            self._drop(process)

    def find(self, number: int) -> Process | None:
        """The process with this id, if it uses the machine."""
        return self._processes.get(number)

    def pins(self) -> bool:
        """Whether anyone has memory pinned."""
        return any(process.space.pinned_pages or process.space.locked_pages for process in self._processes.values())

    def copy_in(self, thread: int, address: int, length: int) -> bytes:
        """Up to `length` bytes of a thread's memory, without making it a user of the machine. Raises OSError."""
        return self._transfer.read(thread, address, length)

    def _drop(self, process: Process) -> None:
        del self._processes[process.number]
        for thread in [t for t, caller in self._threads.items() if caller.pid == process.number]:
            self.forget_thread(thread)
        self._unwatch(process.pidfd)
        process.close()

    def _new(self, thread: int) -> ProcessCaller:
        fds = os.open(f"/proc/{thread}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            process = self._process(int(read_status(thread)["Tgid"]), thread)
            self.joined(process.number, thread)
        except BaseException:
            os.close(fds)
            raise
        return ProcessCaller(thread, fds, process, self._shared)

    def _process(self, number: int, thread: int) -> Process:
        process = self._processes.get(number)
        if process and process.ended():  # the number is used again
            self._drop(process)
            process = None
        if process and process.executing and not self._still_has(process, thread):
            process.space.sharers -= 1
            process.space = self._space(number, thread)
            process.space.sharers += 1
        if process is None:
            space = self._space(number, thread)  # first, for it can fail
            process = self._processes[number] = Process(number, os.pidfd_open(number), space)
            self._watch(process.pidfd)
        return process

    def _still_has(self, process: Process, thread: int) -> bool:
        """Whether a process that called execve still has the address space that it had."""
        if process.space.sharers == 1:
            return process.space.alive()
        others = [one for one in self._processes.values() if one.space is process.space and one is not process]
        return any(_share(thread, other.number) for other in others)

    def _space(self, number: int, thread: int) -> Space:
        """The address space of process `number`: a known one if it was made by vfork, else a new one."""
        for process in self._processes.values():
            if process.number != number and _share(thread, process.number):
                return process.space
        return Space(number, thread, self._transfer, self._pinner)


def _share(one: int, other: int) -> bool:
    """Whether two processes share their memory; no where kcmp(2) is forbidden, as in some container profiles."""
    try:
        return same_memory(one, other)
    except OSError:
        return False
