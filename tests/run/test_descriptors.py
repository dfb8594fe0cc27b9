"""Descriptors of device files go where the program puts them; whatever their number, calls on them are served."""

from __future__ import annotations

import pytest

from tests.run.conftest import Runner
from tests.run.test_files import passes

CHECKED = """
from edu import *
import errno, mmap, resource, socket, stat, subprocess

def fails(number, action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        assert error.errno == number, (error, action, arguments)
    else:
        raise AssertionError((action, arguments))

def works(fd):
    assert os.pread(fd, 4, CONFIG) == bytes.fromhex("3412e811")
    assert len(os.pread(fd, 64, CONFIG)) == 64
    os.pwrite(fd, b"\\x78\\x56\\x34\\x12", 4)  # edu's liveness register: BAR 0, and nothing far about its offset
    assert os.pread(fd, 4, 4) == bytes.fromhex("87a9cbed")
    if fd >= 900:  # elsewhere stat is the kernel's: programs that walk a tree make one for every directory
        status = os.fstat(fd)
        assert stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat("/dev/vfio/devices/vfio0").st_rdev
    assert call(fd, 0x3B6B, "=6I", 0, 0, 0, 0, 0)
    fails(errno.ESPIPE, os.lseek, fd, 8, 0)
    fails(errno.EINVAL, mmap.mmap, fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ, mmap.ACCESS_DEFAULT, CONFIG)
"""


@pytest.mark.parametrize(
    "move",
    [
        "os.dup2(machine.device, 20)",
        "os.dup2(machine.device, 20, inheritable=False)",
        "os.dup2(machine.device, 950)",
        "os.dup(machine.device)",
        "fcntl.fcntl(machine.device, fcntl.F_DUPFD, 3)",
        "fcntl.fcntl(machine.device, fcntl.F_DUPFD_CLOEXEC, 990)",
        "os.dup(os.dup2(machine.device, 30))",
        "sent(machine.device)",
    ],
)
def test_a_copy_works_like_the_original_wherever_it_is(run_as_anyone: Runner, move: str) -> None:
    passes(
        run_as_anyone,
        f"""{CHECKED}
def sent(fd):
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [fd])
    (received,) = socket.recv_fds(theirs, 1, 1)[1]
    return received

machine = Machine()
copy = {move}
os.close(machine.device)
works(copy)
""",
    )


def test_f_dupfd_gives_no_number_below_what_is_asked_for(run: Runner) -> None:
    passes(
        run,
        f"""{CHECKED}
iommufd = os.open("/dev/iommu", os.O_RDWR)
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for least in (0, 899, 950, 1023, 1024, 1500, 1999):
    copy = fcntl.fcntl(iommufd, fcntl.F_DUPFD, least)
    assert copy >= least and fcntl.ioctl(copy, CHECK_EXTENSION, 1) == 1
fails(errno.EINVAL, fcntl.fcntl, iommufd, fcntl.F_DUPFD, 2000)
""",
    )


def test_a_device_passes_through_exec_under_the_number_that_it_was_given(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        f"""{CHECKED}
if len(sys.argv) > 1:
    works(int(sys.argv[1]))
    fails(errno.EBADF, os.fstat, int(sys.argv[2]))
else:
    machine = Machine()
    kept = os.dup2(machine.device, 12)
    os.set_inheritable(kept, True)
    source = open("/proc/self/cmdline").read().split("\\0")[3]
    os.execv(sys.executable, [sys.executable, "-c", source, str(kept), str(machine.device)])
""",
    )


def test_more_than_a_thousand_files_are_open_at_once_where_the_limit_allows(run: Runner) -> None:
    passes(
        run,
        f"""{CHECKED}
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
if hard < 4096:
    sys.exit(0)
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
files = [os.open("/dev/iommu", os.O_RDWR) for _ in range(600)]
assert len(set(files)) == 600
assert all(fcntl.ioctl(fd, CHECK_EXTENSION, 1) == 1 for fd in files)
machine = Machine()
copies = [os.dup(machine.device) for _ in range(500)]
for copy in copies[::50]:
    works(copy)
assert all(stat.S_ISCHR(os.fstat(fd).st_mode) for fd in files)
for fd in files + copies:
    os.close(fd)
machine.close()
Machine()
""",
    )


def test_files_beyond_every_number_still_answer_ioctl_and_it_is_said(run: Runner) -> None:
    done = run.python(
        f"""{CHECKED}
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
files = [os.open("/dev/iommu", os.O_RDWR) for _ in range(150)]
assert len(set(files)) == 150 and all(fcntl.ioctl(fd, CHECK_EXTENSION, 1) == 1 for fd in files)
"""
    )
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "no free descriptor number" in done.stderr


def test_at_the_limit_open_fails_with_emfile_and_nothing_stays_open(run: Runner) -> None:
    passes(
        run,
        f"""{CHECKED}
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
nulls = []
try:
    while True:
        nulls.append(os.open("/dev/null", os.O_RDWR))
except OSError as error:
    assert error.errno == errno.EMFILE
fails(errno.EMFILE, os.open, "/dev/iommu", os.O_RDWR)
fails(errno.EMFILE, os.open, "/dev/vfio/devices/vfio0", os.O_RDWR)
for fd in nulls:
    os.close(fd)
Machine()  # the device of the failed open is not held by anybody
""",
    )


def test_the_descriptor_shows_what_it_is_in_proc(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        f"""{CHECKED}
iommufd = os.dup2(os.open("/dev/iommu", os.O_RDWR), 20)
for link in (f"/proc/self/fd/{{iommufd}}", f"/proc/{{os.getpid()}}/fd/{{iommufd}}", f"/dev/fd/{{iommufd}}"):
    assert os.readlink(link) == "/dev/iommu", link
    assert os.stat(link).st_rdev == os.stat("/dev/iommu").st_rdev
    assert stat.S_ISLNK(os.lstat(link).st_mode)
    again = os.open(link, os.O_RDWR)  # a file of its own, as of every device node
    assert again != iommufd
    ioas = call(iommufd, IOAS_ALLOC, "=3I", 0, 0)[2]
    fails(errno.ENOENT, call, again, IOAS_UNMAP, "=2I2Q", ioas, 0, 1 << 64 - 1)
    os.close(again)
""",
    )


def test_calls_that_a_device_file_does_not_know_fail_as_on_the_kernel(run: Runner) -> None:
    """What Linux 7.3.4 answers on /dev/iommu and on a device that is not bound."""
    passes(
        run,
        f"""{CHECKED}
for path in ("/dev/iommu", "/dev/vfio/devices/vfio0"):
    fd = os.open(path, os.O_RDWR)
    fails(errno.EINVAL, os.read, fd, 4)
    fails(errno.EINVAL, os.write, fd, b"abcd")
    fails(errno.EINVAL, os.pread, fd, 4, 0)
    fails(errno.EINVAL, os.pwrite, fd, b"abcd", 0)
    for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
        fails(errno.ESPIPE, os.lseek, fd, 0, whence)
    fails(errno.EINVAL, os.lseek, fd, 0, 77)
    fails(errno.EINVAL, os.fsync, fd)
    fails(errno.EINVAL, os.ftruncate, fd, 0)
    fails(errno.ENODEV, os.posix_fallocate, fd, 0, 1)
    assert not os.isatty(fd)
    shared = errno.ENXIO if path == "/dev/iommu" else errno.EINVAL
    for protection, offset in ((3, 0), (1, 0), (3, 4096), (1, 7 << 40)):
        fails(shared, mmap.mmap, fd, 4096, mmap.MAP_SHARED, protection, mmap.ACCESS_DEFAULT, offset)
        fails(errno.EINVAL, mmap.mmap, fd, 4096, mmap.MAP_PRIVATE, protection, mmap.ACCESS_DEFAULT, offset)
""",
    )


def test_a_read_that_nobody_serves_ends(run: Runner) -> None:
    """read(2) without an offset on a copy outside of our numbers: not the device's bytes, but no wait either."""
    passes(
        run,
        f"""{CHECKED}
copy = os.dup2(os.open("/dev/iommu", os.O_RDWR), 20)
assert os.read(copy, 4) == b"" == os.read(copy, 4)
""",
    )
