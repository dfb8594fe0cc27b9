"""`ioas run --check`: what this environment allows, and what is degraded where it does not.

Each mechanism is tried out, not guessed from versions: a child is put under a filter, makes a call, and what the
supervisor of a program does to it is done.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from ioas.errors import EnvironmentRefusal
from ioas.host import PAGE_SIZE
from ioas.host.maps import Maps
from ioas.run import kernel
from ioas.run.buffers import Buffers, Memory
from ioas.run.filter import build, rules
from ioas.run.kernel import Nr, Transfer
from ioas.run.launch import Launched, fork_filtered
from ioas.run.listener import Call, Gone, Listener
from ioas.run.mmio import compiled
from ioas.run.namespace import why_not
from ioas.run.numbers import FdRange, number_ranges
from ioas.run.pins import may_use_map_files
from ioas.run.stage import writable_place
from ioas.run.visit import Unavailable

Verdict = Literal["ok", "degraded", "missing"]

_PROBE = b"/dev/iommu"
_ANYWHERE = FdRange(900, 1023)


class Finding(NamedTuple):
    """One mechanism: whether it works, and what its absence means."""

    name: str
    verdict: Verdict
    text: str


def check_environment() -> list[Finding]:
    """Try everything that `ioas run` stands on. With any "missing" among the answers, programs cannot be run."""
    findings = [_system(), _descriptors()]
    try:
        launched = fork_filtered(build(rules([_ANYWHERE], eventfds=False)), _probe)
    except EnvironmentRefusal as error:
        return [*findings, Finding("seccomp user notification", "missing", str(error))]
    try:
        findings += _serve_probe(launched)
    finally:
        launched.channel.close()
        os.kill(launched.pid, signal.SIGKILL)
        os.waitpid(launched.pid, 0)
    return [*findings, *_memory(), _stage(), _namespace()]


def _probe() -> None:
    """In the child: the call that is handed over."""
    os.open(_PROBE, os.O_RDONLY)
    signal.pause()


def _system() -> Finding:
    found = os.uname()
    right = sys.platform == "linux" and found.machine == "x86_64"
    text = f"{found.sysname} {found.release} on {found.machine}"
    return Finding("system", "ok" if right else "missing", text if right else f"{text}; needs Linux on x86-64")


def _descriptors() -> Finding:
    try:
        numbers = number_ranges()[0]
    except EnvironmentRefusal as error:
        return Finding("descriptor numbers", "missing", str(error))
    return Finding("descriptor numbers", "ok", f"device files have the numbers {numbers.first} to {numbers.last}")


def _serve_probe(launched: Launched) -> Iterator[Finding]:
    """What can be done to a program that waits for the answer to a call."""
    listener = Listener(launched.listener)
    try:
        yield Finding("seccomp user notification", "ok", "system calls can be handed over")
        yield _choose(
            "synchronous wake-up",
            listener.synchronise(),
            "a call costs microseconds",
            "before Linux 6.6: ten times slower",
        )
        yield _choose(
            "killable waits",
            launched.killable,
            "signals do not disturb a call that is being served",
            "before Linux 5.19: a signal makes the kernel repeat the call",
        )
        yield from _look_into(launched.pid, _receive(listener), listener)
    finally:
        listener.close()


def _receive(listener: Listener) -> Call:
    """The probe's call; those that Python makes on the way there are let go on."""
    while True:
        try:
            call = listener.receive()
            if call.number == Nr.OPENAT and Transfer().read(call.thread, call.arguments[1], 11) == _PROBE + b"\0":
                return call
            listener.proceed(call.ident)
        except (InterruptedError, PermissionError):
            continue
        except Gone:
            raise EnvironmentRefusal("the probe has been killed") from None


def _look_into(pid: int, call: Call, listener: Listener) -> Iterator[Finding]:
    yield _try(
        "program memory",
        lambda: Transfer().read(pid, call.arguments[1], 1),
        "read and written by process_vm_readv",
        f"process_vm_readv fails: {_tracing()}",
        "missing",
    )
    yield _try(
        "DMA to the program",
        lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        "reaches its memory by /proc/PID/mem",
        f"/proc/PID/mem cannot be opened: {_tracing()}",
        "missing",
    )
    yield _try(
        "descriptors of the program", lambda: os.listdir(f"/proc/{pid}/fd"), "seen in /proc", _tracing(), "missing"
    )
    yield _try(
        "eventfds of the program",
        lambda: os.close(kernel.take_fd(pid, pid, 2)),
        "fetched by pidfd_getfd",
        "pidfd_getfd is not allowed: eventfds are made by ioas instead, and a dup of a device file serves no more than "
        "ioctl and accesses of up to 8 bytes",
        "degraded",
    )
    yield _try(
        "shared address spaces",
        lambda: kernel.same_memory(pid, os.getpid()),
        "told apart by kcmp",
        "kcmp is not allowed: a vfork child counts as a process with memory of its own",
        "degraded",
    )
    yield _try(
        "descriptors for the program",
        lambda: listener.give(call.ident, 2, _ANYWHERE.first, cloexec=True, answer=False),
        "put into it while it waits",
        "the kernel is too old (5.14)",
        "missing",
    )
    yield from _pinning(_why_not_pinned(pid, call, listener))


def _why_not_pinned(pid: int, call: Call, listener: Listener) -> str:
    """Have the probe's stack pinned, and end its call: why that was not possible, empty when it was."""
    buffers = Buffers(listener, lambda: call)
    try:
        with Maps(pid) as maps:
            stack = next(vma for vma in maps.all() if vma.path == b"[stack]")
        buffers.register(pid, stack.end - PAGE_SIZE, PAGE_SIZE, Memory("stack", certain=False), 0).drop()
    except (Unavailable, OSError, StopIteration) as error:
        return str(error) or "the probe has no stack"
    finally:
        with contextlib.suppress(Gone):
            listener.answer(call.ident, 0)
        buffers.close()
    return ""


def _pinning(reason: str) -> Iterator[Finding]:
    """`reason`: why the kernel cannot pin pages for us."""
    pinned = "pinned by io_uring: what is mapped for DMA outlives munmap, fork and exit"
    address = "held by its address, where a kernel pins the pages: DMA follows a munmap or a new mapping there"
    yield _choose("private memory", not reason, pinned, f"{address} (--strict refuses it): {reason}")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if not reason and limit != resource.RLIM_INFINITY and os.geteuid():
        yield Finding("pinned memory", "ok", f"{limit >> 10} kB at most (`ulimit -l`); beyond that by its address")
    yield _choose(
        "shared memory",
        may_use_map_files() or not reason,
        "held by its file, or pinned: what is mapped for DMA outlives munmap, fork and exit",
        "held by its file where the program has a descriptor or a path of it (memfd, /dev/shm); shared anonymous "
        "memory by its address, for /proc/PID/map_files needs CAP_CHECKPOINT_RESTORE",
    )


def _memory() -> Iterator[Finding]:
    with Maps() as maps:
        quick = maps.can_query()
    yield _mapped_bars()
    yield _choose(
        "memory areas", quick, "asked for by PROCMAP_QUERY", "before Linux 6.11: maps are read as text, MAP is slower"
    )


def _mapped_bars() -> Finding:
    name = "mapped BARs"
    try:
        compiled.load()
    except compiled.Missing as error:
        cost = "a trap takes half as long again, and --mmio poll can lose a store that races with what the device does"
        return Finding(name, "degraded", f"the compiled part is not used ({error}): {cost}")
    text = "loads and stores are trapped by the compiled part; with --mmio poll they are not carried out one by one"
    return Finding(name, "ok", text)


def _stage() -> Finding:
    place = writable_place()
    text = "its directories cannot be opened: no place to write them to, neither /dev/shm nor XDG_RUNTIME_DIR"
    return Finding(
        "files of /sys", "ok" if place else "degraded", f"in a private directory of {place}" if place else text
    )


def _namespace() -> Finding:
    number = why_not()
    return _choose(
        "mount namespace",
        number == 0,
        "the program has /dev and /sys of its own",
        f"not allowed ({errno.errorcode.get(number, number)}): /dev and /sys are answered for path by path; listings "
        "of /dev and /sys/class are the real machine's",
    )


def _choose(name: str, works: bool, good: str, bad: str) -> Finding:
    return Finding(name, "ok" if works else "degraded", good if works else bad)


def _try(name: str, attempt: Callable[[], object], good: str, bad: str, verdict: Verdict) -> Finding:
    try:
        attempt()
    except OSError as error:
        return Finding(name, verdict, f"{bad} ({errno.errorcode.get(error.errno or 0, error)})")
    return Finding(name, "ok", good)


def _tracing() -> str:
    """Why a process of ours may not be looked into."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            scope = file.read().strip()
    except OSError:
        return "this container or security module forbids looking into processes"
    return f"kernel.yama.ptrace_scope is {scope}" + (", which forbids looking into processes" if scope > "1" else "")
