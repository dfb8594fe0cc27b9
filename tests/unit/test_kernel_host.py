"""The running kernel behind the seam (`ioas.kernel`), as far as it can be seen without one that has iommufd."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

import ioas
from ioas.errors import BadAddress, BadFile, KernelError, NotFound, NotSupported, UnknownRequest, UsageError
from ioas.host import Capability
from ioas.kernel import KernelCaller, KernelFile, KernelHost, Pagemap
from ioas.uapi.iommufd import IOMMU_IOAS_ALLOC, iommu_ioas_alloc

PAGE = 4096
BEYOND_INT = 1 << 33


@pytest.fixture
def caller() -> KernelCaller:
    return KernelCaller()


@pytest.fixture
def pipe() -> Iterator[tuple[KernelFile, KernelFile]]:
    reader, writer = os.pipe()
    files = KernelFile(reader, "reader"), KernelFile(writer, "writer")
    yield files
    for file in files:
        file.close()


def test_an_ioctl_takes_buffers_and_addresses_of_any_size(pipe: tuple[KernelFile, KernelFile]) -> None:
    reader, writer = pipe
    writer.write(None, b"seven..", None)
    answer = bytearray(4)
    assert reader.ioctl(None, termios.FIONREAD, answer) == 0
    assert answer == (7).to_bytes(4, "little")
    number = ctypes.c_int()
    assert ctypes.addressof(number) > BEYOND_INT
    assert reader.ioctl(None, termios.FIONREAD, ctypes.addressof(number)) == 0
    assert number.value == 7
    assert reader.read(None, 100, None) == b"seven.."


@pytest.mark.parametrize("argument", [bytearray(12), 0, BEYOND_INT, -1])
def test_a_refused_ioctl_names_the_call_and_the_file(pipe: tuple[KernelFile, KernelFile], argument: object) -> None:
    with pytest.raises(UnknownRequest, match=r"IOMMU_IOAS_ALLOC.*\(file reader\)"):
        pipe[0].ioctl(None, IOMMU_IOAS_ALLOC, argument)


def test_the_quick_call_raises_what_refusal_explains(pipe: tuple[KernelFile, KernelFile]) -> None:
    command = bytearray(bytes(iommu_ioas_alloc(12)))
    with pytest.raises(OSError, match="Inappropriate") as raised:
        pipe[0].quick(IOMMU_IOAS_ALLOC, command)
    assert not isinstance(raised.value, KernelError)
    assert isinstance(pipe[0].refusal(raised.value, IOMMU_IOAS_ALLOC, command), UnknownRequest)


def test_reads_and_writes_that_fail_say_where() -> None:
    closed = KernelFile(os.open("/dev/null", os.O_WRONLY), "/dev/null")
    with pytest.raises(BadFile, match="/dev/null cannot be read"):
        closed.read(None, 1, 0)
    assert closed.device_number == (1, 3)
    closed.close()
    closed.close()
    with pytest.raises(BadFile):
        closed.write(None, b"x", None)


def test_a_host_opens_what_there_is_and_installs_its_own_descriptor(caller: KernelCaller) -> None:
    file = KernelHost().open(caller, "/dev/null", os.O_RDWR | os.O_CLOEXEC)
    fd = caller.install(file)
    assert fd == file.fd
    assert caller.file(fd).write(caller, b"gone", None) == 4
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    caller.close_fd(fd)
    for use in (lambda: caller.close_fd(fd), lambda: caller.file(fd)):
        with pytest.raises(BadFile):
            use()


def test_what_the_kernel_does_by_itself_is_refused_to_be_done_for_it(caller: KernelCaller) -> None:
    for use in (lambda: caller.memory.pin(0, 1, True), lambda: caller.memory_file(0)):
        with pytest.raises(NotSupported, match="by itself"):
            use()


def test_the_caller_is_this_process(caller: KernelCaller) -> None:
    assert (caller.pid, caller.uid) == (os.getpid(), os.getuid())
    assert caller.capable(Capability.SYS_ADMIN) == bool(_effective() >> Capability.SYS_ADMIN & 1)
    assert caller.memory.memlock_limit() is None or caller.memory.memlock_limit() >= 0


def _effective() -> int:
    lines = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["CapEff"], 16)


@pytest.mark.parametrize("make", [lambda: mmap.mmap(-1, PAGE), lambda: bytearray(PAGE), lambda: numpy.zeros(512, "<u8"),
                                  lambda: bytes(PAGE), lambda: memoryview(bytearray(PAGE)).toreadonly()])  # fmt: skip
def test_registered_buffers_stay_where_they_are(caller: KernelCaller, make: object) -> None:
    buffer = make()  # type: ignore[operator]
    address = caller.register(buffer)
    assert caller.memory.read(address, 16) == bytes(16)
    caller.register_again(address)
    caller.unregister(address)
    assert caller.held() == {"buffers": 1}
    if isinstance(buffer, mmap.mmap):
        with pytest.raises(BufferError):
            buffer.close()
    caller.unregister(address)
    assert caller.held() == {}
    with pytest.raises(UsageError, match="no buffer is registered"):
        caller.unregister(address)


@pytest.mark.parametrize("buffer", [bytearray(), numpy.zeros((4, 4), "u1")[:, 1]])
def test_buffers_that_are_empty_or_have_gaps_are_not_registered(caller: KernelCaller, buffer: object) -> None:
    with pytest.raises(UsageError, match="contiguous and not empty"):
        caller.register(buffer)


def test_copies_in_and_out_fail_without_a_crash(caller: KernelCaller) -> None:
    memory = bytearray(PAGE)
    address = caller.register(memory)
    caller.memory.write(address, b"written")
    assert caller.memory.read(address, 7) == memory[:7] == b"written"
    caller.unregister(address)
    for wild in (16, 1 << 63, (1 << 64) - 1, 1 << 65):
        with pytest.raises(BadAddress):
            caller.memory.read(wild, 8)
        with pytest.raises(BadAddress):
            caller.memory.write(wild, b"x" * 8)


def test_locked_memory_tells_where_it_is() -> None:
    pagemap, memory = Pagemap(), mmap.mmap(-1, 4 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    before = KernelCaller().memory.locked_pages
    pagemap.lock(address, 4 * PAGE)
    assert KernelCaller().memory.locked_pages == before + 4
    if KernelCaller().capable(Capability.SYS_ADMIN):
        runs = pagemap.runs(address, 4 * PAGE)
        assert sum(size for _, size in runs) == 4 * PAGE
        assert all(start % PAGE == 0 and start for start, _ in runs)
    else:
        with pytest.raises(KernelError, match="CAP_SYS_ADMIN"):
            pagemap.runs(address, 4 * PAGE)
    pagemap.unlock(address, 4 * PAGE)
    assert KernelCaller().memory.locked_pages == before
    with pytest.raises(KernelError, match="cannot be locked"):
        pagemap.lock(0, PAGE)


@pytest.mark.skipif(os.path.exists("/dev/iommu"), reason="this machine has an iommufd")
def test_a_machine_without_iommufd_says_so() -> None:
    with ioas.KernelHost() as host:
        with pytest.raises(NotFound, match=r"/dev/iommu cannot be opened: .*(CONFIG_IOMMUFD|no node)"):
            host.iommufd()
        assert host.devices() == []
        with pytest.raises(UsageError, match="no PCI device"):
            host.device("0000:ff:1f.7")
    assert host.closed


def test_the_running_kernel_is_had_without_the_software_machine_and_without_numpy() -> None:
    script = "import sys, ioas; ioas.KernelHost().close(); print({'numpy', 'ioas.soft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
