"""The first process of the guest: makes the host's files its root, runs one command, and powers off.

Runs on the standard library alone, as ``python -I -S init.py`` with nothing mounted but the host's root, read-only
over 9p. It puts a throwaway overlay above that, so that the command may write wherever it likes and the host
keeps its files; only the directories that the job names are the host's own. Three virtio ports lead to the host:
`control` (lines of JSON: the job in, "ready", a "beat" every few seconds and the status out), `out` and `err`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TypedDict

BEAT_SECONDS = 2.0
PORTS = Path("/sys/class/virtio-ports")
TEMPORARY = "/run/tmp"
"""For temporary files: what stands in the host's /tmp may be somebody's that the guest's user may not look at."""
PORT_SECONDS = 30.0
DRAIN_SECONDS = 10.0
CHUNK = 1 << 16
MSIZE = 1 << 18
MS_RDONLY, MNT_DETACH, SYS_PIVOT_ROOT = 1, 2, 155
RB_POWER_OFF = 0x4321FEDC
NOT_FOUND, NOT_EXECUTABLE = 127, 126
LIBC = ctypes.CDLL(None, use_errno=True)


class Job(TypedDict):
    """What the host asks for."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    devices: list[str]  # "vendor:device" in hexadecimal, for vfio-pci
    shares: dict[str, str]  # 9p tag: the directory, the host's own, that it is mounted on


def check(result: int, what: str) -> None:
    """Raise OSError for a C library call that returned `result`."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, options: str = "", flags: int = 0) -> None:
    """Mount a file system on `target`, which is made when it is missing."""
    Path(target).mkdir(parents=True, exist_ok=True)
    words = [word.encode() for word in (source, target, kind)]
    check(LIBC.mount(*words, flags, options.encode()), f"mount {kind} on {target}")


def change_root() -> None:
    """Put an overlay in memory above the host's root and the kernel's file systems into it."""
    mount("overlay", "/tmp", "tmpfs", "mode=755")
    for name in ("upper", "work", "root"):
        os.mkdir(f"/tmp/{name}")
    root = "/tmp/root"
    mount("overlay", root, "overlay", "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work")
    mount("proc", f"{root}/proc", "proc")
    mount("sysfs", f"{root}/sys", "sysfs")
    mount("debugfs", f"{root}/sys/kernel/debug", "debugfs")
    mount("devtmpfs", f"{root}/dev", "devtmpfs")
    mount("devpts", f"{root}/dev/pts", "devpts", "ptmxmode=666")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", "mode=1777")
    mount("tmpfs", f"{root}/run", "tmpfs", "mode=755")
    os.chdir(root)
    check(LIBC.syscall(SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
    check(LIBC.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    os.mkdir(TEMPORARY)
    os.chmod(TEMPORARY, 0o1777)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"/dev/{name}")


def open_port(name: str) -> int:
    """The descriptor of the virtio port `name`, which the kernel announces a moment after it started."""
    end = time.monotonic() + PORT_SECONDS
    while time.monotonic() < end:
        for entry in PORTS.glob("*/name"):
            if entry.read_text().strip() == name:
                return os.open(f"/dev/{entry.parent.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.01)
    raise OSError(f"the host has no virtio port {name}")


def write_all(port: int, data: bytes) -> None:
    """Write all of `data`; the kernel waits for the host where that must."""
    while data:
        data = data[os.write(port, data) :]


class Control:
    """The port on which host and guest tell each other what to do and what came of it."""

    def __init__(self) -> None:
        self._port = open_port("control")
        self._lock = threading.Lock()

    def tell(self, event: str, **fields: object) -> None:
        """Send one event."""
        with self._lock:
            write_all(self._port, json.dumps({"event": event, **fields}).encode() + b"\n")

    def job(self) -> Job:
        """Wait for the job: one line. An empty read means that the host has not connected yet."""
        line = b""
        while not line.endswith(b"\n"):
            line += (part := os.read(self._port, CHUNK))
            if not part:
                time.sleep(0.01)
        job: Job = json.loads(line)
        return job

    def beat(self) -> None:
        """Say every `BEAT_SECONDS` that this guest lives, for ever."""
        while True:
            time.sleep(BEAT_SECONDS)
            self.tell("beat")


def give_to_vfio(wanted: list[str]) -> None:
    """Bind every PCI function whose "vendor:device" is in `wanted` to vfio-pci, whoever has it now."""
    for device in sorted(Path("/sys/bus/pci/devices").iterdir()):
        ids = ":".join((device / name).read_text().strip()[2:] for name in ("vendor", "device"))
        if ids not in wanted:
            continue
        (device / "driver_override").write_text("vfio-pci")
        if (device / "driver").exists():
            (device / "driver/unbind").write_text(device.name)
        Path("/sys/bus/pci/drivers_probe").write_text(device.name)


def relay(source: int, port: int) -> threading.Thread:
    """Copy a pipe to a port until nobody holds the pipe's other end."""

    def copy() -> None:
        while data := os.read(source, CHUNK):
            write_all(port, data)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def start(job: Job, out: int, err: int) -> int:
    """Start the job's command in a session of its own; its process id."""
    process = subprocess.Popen(
        job["argv"],
        env=job["env"],
        cwd=job["cwd"],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
    )
    return process.pid


def is_nowhere(job: Job) -> bool:
    """Whether there is no such command: execve says EACCES where $PATH names a directory that nobody may search."""
    place = os.path.join(job["cwd"], job["argv"][0]) if "/" in job["argv"][0] else job["argv"][0]
    return shutil.which(place, os.F_OK, job["env"].get("PATH", os.defpath)) is None


def reap(pid: int) -> int:
    """Wait for every process, as the first one must, until `pid` ends: its status as a shell gives it."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def end_everybody() -> bool:
    """Kill what the command left behind; whether all of it ended, which a process stuck in the kernel does not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    end = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < end:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not pid:
            time.sleep(0.01)
    return False


def run(job: Job) -> int:
    """Run the job's command to its end and everything that it left behind; its status as a shell gives it."""
    relays, ends = [], []
    for name in ("out", "err"):
        source, end = os.pipe()
        relays.append(relay(source, open_port(name)))
        ends.append(end)
    try:
        pid = start(job, *ends)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError) or is_nowhere(job)
        said = os.strerror(errno.ENOENT) if absent else error.strerror
        write_all(ends[1], f"{error.filename}: {said}\n".encode())
        status = NOT_FOUND if absent else NOT_EXECUTABLE
    else:
        status = reap(pid)
    for end in ends:
        os.close(end)
    everybody_ended = end_everybody()
    for thread in relays:  # with nobody left to write it is the host that reads slowly
        thread.join(None if everybody_ended else DRAIN_SECONDS)
    return status


def main() -> None:
    """Make the guest, run the job, tell its status, power off."""
    change_root()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1 << 19))
    control = Control()
    control.tell("up")
    job = control.job()
    for tag, path in job["shares"].items():
        mount(tag, path, "9p", f"trans=virtio,version=9p2000.L,msize={MSIZE}")
    give_to_vfio(job["devices"])
    control.tell("ready")
    threading.Thread(target=control.beat, daemon=True).start()
    status = run(job)
    os.sync()
    control.tell("status", status=status)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()  # on the console, the end of which the host shows
    sys.stderr.flush()
    os.sync()
    LIBC.reboot(RB_POWER_OFF)
