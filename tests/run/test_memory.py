"""Pointers: what a call copies in and out, and what it refuses with EFAULT."""

from __future__ import annotations

import pytest

from tests.run.conftest import Runner

HEAD = """
from edu import *
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def area(length=8192, protection=3):
    return libc.mmap(None, length, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
def ioctl(fd, request, address):
    return 0 if libc.ioctl(fd, request, address) >= 0 else ctypes.get_errno()
iommufd = os.open("/dev/iommu", os.O_RDWR)
alloc = struct.pack("=3I", 12, 0, 0)
"""


def passes(run: Runner, source: str) -> None:
    done = run.python(HEAD + source)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("address", ["0", "1", "8", "2**46", "2**47 - 4096", "2**63", "2**64 - 8", "2**64 - 1"])
def test_a_pointer_to_nowhere_is_efault(run: Runner, address: str) -> None:
    passes(run, f"assert ioctl(iommufd, IOAS_ALLOC, {address}) == errno.EFAULT")


def test_memory_that_the_program_may_not_read_is_efault(run_as_anyone: Runner) -> None:
    passes(run_as_anyone, "assert ioctl(iommufd, IOAS_ALLOC, area(protection=0)) == errno.EFAULT")


def test_a_structure_that_the_program_may_not_write_is_efault_and_stays(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
where = area()
ctypes.memmove(where, alloc, 12)
libc.mprotect(where, 4096, 1)
assert ioctl(iommufd, IOAS_ALLOC, where) == errno.EFAULT
assert ctypes.string_at(where, 12) == alloc
""",
    )


def test_a_structure_across_the_end_of_memory_is_efault_and_one_up_to_it_is_served(run: Runner) -> None:
    passes(
        run,
        """
where = area()
libc.munmap(where + 4096, 4096)
ctypes.memmove(where + 4096 - 12, alloc, 12)
assert ioctl(iommufd, IOAS_ALLOC, where + 4096 - 12) == 0
ctypes.memmove(where + 4096 - 8, alloc[:8], 8)
assert ioctl(iommufd, IOAS_ALLOC, where + 4096 - 8) == errno.EFAULT
""",
    )


def test_buffers_for_read_and_write_are_checked_too(run: Runner) -> None:
    passes(
        run,
        """
machine = Machine()
libc.pread.argtypes = libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
for function in (libc.pread, libc.pwrite):
    assert function(machine.device, 8, 4, CONFIG) == -1 and ctypes.get_errno() == errno.EFAULT
    assert function(machine.device, area(), 4, -5) == -1 and ctypes.get_errno() == errno.EINVAL
""",
    )


def test_memory_is_that_of_the_image_that_runs_now(run_as_anyone: Runner) -> None:
    """Across execve, and with a vfork child that shares its parent's memory until it executes something."""
    passes(
        run_as_anyone,
        """
import subprocess
os.set_inheritable(iommufd, True)
os.set_inheritable(0, True)
code = '''
import ctypes, fcntl, os, struct, sys
fd, left = map(int, sys.argv[1:])
buffer = bytearray(struct.pack("=3I", 12, 0, 0))
fcntl.ioctl(fd, 0x3B81, buffer)
assert struct.unpack("=3I", buffer)[2] > 0
if left:
    code = open("/proc/self/cmdline").read().split(chr(0))[2]
    os.execv(sys.executable, [sys.executable, "-c", code, str(fd), str(left - 1)])
'''
for _ in range(3):
    assert call(iommufd, IOAS_ALLOC, "=3I", 0, 0)[2] > 0
    subprocess.run([sys.executable, "-c", code, str(iommufd), "2"], close_fds=False, check=True)
    child = os.fork()
    if child == 0:
        call(iommufd, IOAS_ALLOC, "=3I", 0, 0)
        os.execv(sys.executable, [sys.executable, "-c", code, str(iommufd), "1"])
    assert os.waitpid(child, 0)[1] == 0
""",
    )


def test_a_thread_that_executes_a_program_takes_its_process_along(run: Runner) -> None:
    passes(
        run,
        """
import threading
os.set_inheritable(iommufd, True)
code = "import fcntl, struct, sys; fcntl.ioctl(int(sys.argv[1]), 0x3B81, bytearray(struct.pack('=3I', 12, 0, 0)))"
def execute():
    call(iommufd, IOAS_ALLOC, "=3I", 0, 0)
    os.execv(sys.executable, [sys.executable, "-c", code, str(iommufd)])
call(iommufd, IOAS_ALLOC, "=3I", 0, 0)
threading.Thread(target=execute).start()
time.sleep(10)
""",
    )
