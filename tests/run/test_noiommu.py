"""A machine without an IOMMU under `ioas run`: nodes, privileges, the taint, and where a program's memory is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.run.conftest import Runner

EXAMPLES = Path(__file__).parents[2] / "examples"
NO_IOMMU = ["--no-iommu"]
PRIVILEGED = ["--cap", "sys_rawio", "--cap", "sys_admin"]
TAINTED = "ioas: 0000:01:00.0: VFIO gives it to programs without an IOMMU (no-IOMMU mode): the kernel is tainted (U)\n"


def test_nodes_say_that_there_is_no_iommu(run_as_anyone: Runner) -> None:
    done = run_as_anyone("ls", "/dev/vfio", "/dev/vfio/devices", options=NO_IOMMU)
    if run_as_anyone.has_namespace():
        assert done.stdout == "/dev/vfio:\ndevices\nnoiommu-0\nvfio\n\n/dev/vfio/devices:\nnoiommu-vfio0\n"
    for path in ("/dev/vfio/noiommu-0", "/dev/vfio/devices/noiommu-vfio0"):
        assert run_as_anyone("test", "-c", path, options=NO_IOMMU).returncode == 0


def test_opening_is_for_sys_rawio_which_can_be_granted(run_as_nobody: Runner) -> None:
    source = "import os, sys\nfor path in sys.argv[1:]: os.close(os.open(path, os.O_RDWR)); print('opened')"
    nodes = ("/dev/vfio/noiommu-0", "/dev/vfio/devices/noiommu-vfio0")
    for node in nodes:
        done = run_as_nobody.python(source, node, options=[*NO_IOMMU, "--explain"])
        assert "PermissionError: [Errno 1]" in done.stderr
        assert f"open({node}) = -1 EPERM: no IOMMU stands before" in done.stderr
        assert "(capability CAP_SYS_RAWIO)" in done.stderr
    done = run_as_nobody.python(source, *nodes, options=[*NO_IOMMU, "--cap", "sys_rawio"])
    assert done.stdout == "opened\nopened\n"


def test_the_kernel_is_tainted_and_says_so(run_as_anyone: Runner) -> None:
    reads = (
        "cat /proc/sys/kernel/tainted; while read -r flags; do echo $((flags & 64)); done < /proc/sys/kernel/tainted"
    )
    tainted = run_as_anyone("sh", "-c", reads, options=[*NO_IOMMU, "--explain", "--summary"])
    number, user_flag = tainted.stdout.split()
    assert (int(number) & 64, user_flag) == (64, "64")
    assert "0000:01:00.0: VFIO gives it to programs without an IOMMU (no-IOMMU mode): the kernel is tainted (U)" in (
        tainted.stderr
    )
    assert "summary: kernel tainted (U) by 0000:01:00.0" in tainted.stderr
    usual = run_as_anyone("sh", "-c", reads, options=["--summary"])
    assert int(usual.stdout.split()[0]) == int(number) & ~64
    assert "tainted" not in usual.stderr


@pytest.fixture(params=["C", "Python"])
def example(request: pytest.FixtureRequest, open_directory: Path) -> list[str]:
    """The example that goes the way DPDK goes: a huge page where there is one, pagemap, no mapping."""
    if request.param == "Python":
        return [sys.executable, str(EXAMPLES / "noiommu.py"), "0000:01:00.0"]
    program = open_directory / "noiommu"
    compiler = request.getfixturevalue("cc")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, EXAMPLES / "noiommu.c"], check=True)
    return [str(program), "0000:01:00.0"]


def test_a_program_goes_the_way_dpdk_goes(run_as_anyone: Runner, example: list[str]) -> None:
    done = run_as_anyone(*example, options=[*NO_IOMMU, *PRIVILEGED, "--explain"])
    assert (done.returncode, done.stderr) == (0, TAINTED)
    group, memory, moved = done.stdout.splitlines()
    assert group == "edu 0000:01:00.0 is in /dev/vfio/noiommu-0: no IOMMU stands before it"
    assert memory in ("memory: a huge page, physically contiguous: yes", "memory: 2 ordinary pages, locked")
    assert moved == 'to the device and back by DMA, from one page to the next: "Hello from user space"'


def test_dma_to_memory_that_has_been_given_back_is_a_fault(run_as_anyone: Runner, example: list[str]) -> None:
    done = run_as_anyone(*example, "--wild", options=[*NO_IOMMU, *PRIVILEGED, "--explain", "--summary"])
    assert done.returncode == 0
    fault = r"ioas: 0000:01:00.0: DMA write of 2[12] bytes at physical address 0x\w+ reached no memory: nothing stands"
    assert re.search(fault, done.stderr)
    assert "1 DMA fault" in done.stderr


def test_without_sys_admin_pagemap_has_no_frame_numbers(run_as_nobody: Runner, example: list[str]) -> None:
    done = run_as_nobody(*example, options=[*NO_IOMMU, "--cap", "sys_rawio", "--explain"])
    assert done.returncode == 1
    assert "/proc/self/pagemap does not tell where memory is: that takes CAP_SYS_ADMIN" in done.stderr
    assert "/proc/self/pagemap shows no frame numbers without CAP_SYS_ADMIN" in done.stderr


PAGEMAP = """
import ctypes, errno, fcntl, mmap, os, struct, sys
PAGE, PRESENT, FRAME, FIXED = 4096, 1 << 63, (1 << 55) - 1, 0x10
libc = ctypes.CDLL(None, use_errno=True)
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mmap.restype = ctypes.c_void_p
PRIVATE, SHARED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
kept = []
def memory(pages, kind=PRIVATE, fd=-1):
    found = mmap.mmap(fd, pages * PAGE, mmap.MAP_SHARED if fd >= 0 else kind)
    kept.append(found)
    return found, ctypes.addressof(ctypes.c_char.from_buffer(found))
def entry(address, file=pagemap):
    return int.from_bytes(os.pread(file, 8, address // PAGE * 8), "little")
def physical(address):
    return (entry(address) & FRAME) * PAGE + address % PAGE
"""
DEVICE = """
group, container = os.open("/dev/vfio/noiommu-0", os.O_RDWR), os.open("/dev/vfio/vfio", os.O_RDWR)
fcntl.ioctl(group, 0x3b68, struct.pack("i", container))
fcntl.ioctl(container, 0x3b66, 8)
device = fcntl.ioctl(group, 0x3b6a, bytearray(b"0000:01:00.0" + bytes(1)), True)
os.pwrite(device, (6).to_bytes(2, "little"), (7 << 40) + 4)
def dma(source, destination, count, command):
    for register, value in ((0x80, source), (0x88, destination), (0x90, count), (0x98, command | 1)):
        os.pwrite(device, value.to_bytes(8, "little"), register)
    while os.pread(device, 8, 0x98)[0] & 1: pass
def fill(text):
    buffer, at = memory(1)
    buffer[: len(text)] = text
    dma(physical(at), 0x40000, len(text), 0)
def put(where, count=4):
    dma(0x40000, where, count, 2)
"""


def ask(run: Runner, source: str, *options: str) -> list[str]:
    """What a program prints that looks at its pagemap."""
    done = run.python(PAGEMAP + source, options=[*NO_IOMMU, *PRIVILEGED, *options])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_pagemap_tells_what_the_real_one_tells_but_the_frames(run_as_anyone: Runner) -> None:
    source = """
    buffer, at = memory(4)
    buffer[:1], buffer[2 * PAGE : 2 * PAGE + 1] = b"x", b"y"
    entries = [entry(at + number * PAGE) for number in range(4)]
    print([bool(one & PRESENT) for one in entries] == [True, False, True, False])
    print([bool(one & FRAME) for one in entries] == [True, False, True, False])
    print(entry(at) == entry(at), len({one & FRAME for one in entries}) == 3)
    shared, at = memory(1, SHARED)
    shared[:1] = b"x"
    print(entry(at) >> 61 == 0b101)
    """
    assert ask(run_as_anyone, textwrap.dedent(source)) == ["True"] * 5


def test_pagemap_is_read_as_a_file_of_entries(run: Runner) -> None:
    source = """
    buffer, at = memory(2)
    buffer[:1], buffer[PAGE : PAGE + 1] = b"x", b"y"
    print(os.lseek(pagemap, at // PAGE * 8, os.SEEK_SET) == at // PAGE * 8)
    both = os.read(pagemap, 16)
    print(struct.unpack("2Q", both) == (entry(at), entry(at + PAGE)))
    print(os.lseek(pagemap, 0, os.SEEK_CUR) == at // PAGE * 8 + 16)
    print(os.pread(pagemap, 8, 1 << 60) == b"" == os.pread(pagemap, 0, 8))
    for call in (lambda: os.pread(pagemap, 8, 4), lambda: os.pread(pagemap, 7, 8), lambda: os.lseek(pagemap, 0, 2)):
        try: call()
        except OSError as error: print(error.errno == errno.EINVAL)
    for call in (lambda: os.pwrite(pagemap, bytes(8), 0), lambda: fcntl.ioctl(pagemap, 0x1234, bytearray(8))):
        try: call()
        except OSError as error: print(error.errno in (errno.EBADF, errno.ENOTTY))
    other = os.open(f"/proc/{os.getpid()}/task/{os.getpid()}/pagemap", os.O_RDONLY)
    print(entry(at, other) == entry(at))
    """
    assert ask(run, textwrap.dedent(source)) == ["True"] * 10


def test_a_page_has_one_frame_wherever_it_is_seen(run: Runner) -> None:
    source = """
    file = os.memfd_create("ram")
    os.truncate(file, 2 * PAGE)
    (one, first), (two, second) = memory(2, fd=file), memory(2, fd=file)
    one[:1] = two[:1] = one[PAGE : PAGE + 1] = b"x"
    print(physical(first) == physical(second) != physical(first + PAGE))
    process = os.fork()
    if not process:
        child = os.open("/proc/self/pagemap", os.O_RDONLY)
        two[:1] = b"y"
        os._exit(entry(second, child) & FRAME != entry(first) & FRAME)
    print(os.waitpid(process, 0)[1] == 0)
    """
    assert ask(run, textwrap.dedent(source)) == ["True"] * 2


KINDS = {
    "private": "buffer, at = memory(2)",
    "shared": "buffer, at = memory(2, SHARED)",
    "memfd": "file = os.memfd_create('ram'); os.truncate(file, 2 * PAGE); buffer, at = memory(2, fd=file)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_dma_reaches_the_page_until_it_is_gone(run_as_anyone: Runner, kind: str) -> None:
    source = f"""
fill(b"text")
{KINDS[kind]}
buffer[:4] = buffer[PAGE : PAGE + 4] = b"----"
where = physical(at + PAGE)
put(where)
print(buffer[PAGE : PAGE + 4] == b"text", buffer[:4] == b"----")
libc.munmap(at + PAGE, PAGE)
put(where)
if libc.mmap(at + PAGE, PAGE, 3, PRIVATE | FIXED, -1, 0):
    put(where)
    print(ctypes.string_at(at + PAGE, 4) == bytes(4))
"""
    done = run_as_anyone.python(
        PAGEMAP + DEVICE + source, options=[*NO_IOMMU, *PRIVILEGED, "--explain", "--cap", "ipc_lock"]
    )
    assert done.stdout.split() == ["True"] * 3, done.stderr
    assert done.stderr.count("reached no memory") == 2


def test_a_named_file_keeps_its_pages_though_nobody_maps_it(run: Runner) -> None:
    source = """
fill(b"text")
path = f"/dev/shm/ioas-test-{os.getpid()}"
file = os.open(path, os.O_RDWR | os.O_CREAT)
try:
    os.truncate(file, PAGE)
    buffer, at = memory(1, fd=file)
    buffer[:4] = b"----"
    where = physical(at)
    libc.munmap(at, PAGE)
    put(where)
    print(os.pread(file, 4, 0) == b"text")
finally:
    os.unlink(path)
put(where)
print(os.pread(file, 4, 0) == b"text")
"""
    done = run.python(PAGEMAP + DEVICE + source, options=[*NO_IOMMU, *PRIVILEGED, "--explain"])
    assert done.stdout.split() == ["True"] * 2, done.stderr
    assert done.stderr.count("reached no memory") == 1


def test_memory_of_a_file_lives_on_in_a_child(run: Runner) -> None:
    """The child did not ask where the page is; it has it at the address at which its parent did."""
    source = """
fill(b"text")
buffer, at = memory(1, SHARED)
buffer[:4] = b"----"
where = physical(at)
read, write = os.pipe()
if os.fork(): os._exit(0)
os.close(write)
os.read(read, 1)  # until the parent is gone
put(where)
print(buffer[:4] == b"text")
"""
    done = run.python(PAGEMAP + DEVICE + source, options=[*NO_IOMMU, *PRIVILEGED, "--explain"])
    assert done.stdout.split() == ["True"], done.stderr


GET_PA = """
iommufd, cdev = os.open("/dev/iommu", os.O_RDWR), os.open("/dev/vfio/devices/noiommu-vfio0", os.O_RDWR)
fcntl.ioctl(cdev, 0x3b76, bytearray(struct.pack("IIiI", 16, 0, iommufd, 0)), True)
alloc = bytearray(struct.pack("III", 12, 0, 0))
fcntl.ioctl(iommufd, 0x3b81, alloc, True)
ioas = struct.unpack("III", alloc)[2]
fcntl.ioctl(cdev, 0x3b77, bytearray(struct.pack("III", 12, 0, ioas)), True)
def map_(at, pages, iova):
    fcntl.ioctl(iommufd, 0x3b85, bytearray(struct.pack("IIIIQQQ", 40, 7, ioas, 0, at, pages * PAGE, iova)), True)
def get_pa(iova):
    asked = bytearray(struct.pack("IIIIQQQ", 40, 0, ioas, 0, iova, 1 << 62, 0))
    fcntl.ioctl(iommufd, 0x3b95, asked, True)
    return struct.unpack("IIIIQQQ", asked)[6]
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["mapped", "asked"])
def test_iommufd_and_pagemap_tell_the_same(run_as_anyone: Runner, kind: str, first: str) -> None:
    source = f"""
{KINDS[kind]}
buffer[:1] = buffer[PAGE : PAGE + 1] = b"x"
if {first == "asked"}: physical(at)
map_(at, 1, 0x10000)
print(get_pa(0x10000) == physical(at))
"""
    done = run_as_anyone.python(PAGEMAP + GET_PA + source, options=[*NO_IOMMU, *PRIVILEGED, "--cap", "ipc_lock"])
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_with_an_iommu_pagemap_is_the_real_one(run: Runner) -> None:
    source = (
        "buffer, at = memory(1); buffer[:1] = b'x'; print(entry(at) & FRAME, os.readlink(f'/proc/self/fd/{pagemap}'))"
    )
    done = run.python(PAGEMAP + source)
    frame, link = done.stdout.split()
    assert link.endswith("/pagemap")
    if os.geteuid() == 0:
        assert int(frame) > 0


def test_frames_go_with_the_process(run: Runner) -> None:
    source = """
fill(b"text")
read, write = os.pipe()
if not os.fork():
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    buffer, at = memory(1)
    buffer[:4] = b"----"
    os.write(write, physical(at).to_bytes(8, "little"))
    os._exit(0)
os.wait()
put(int.from_bytes(os.read(read, 8), "little"))
"""
    done = run.python(PAGEMAP + DEVICE + source, options=[*NO_IOMMU, *PRIVILEGED, "--explain"])
    assert done.stderr.count("reached no memory") == 1


def test_the_public_suite_passes_without_an_iommu(run_as_anyone: Runner) -> None:
    """As on a kernel, for to the suite it is one."""
    suite = Path(__file__).parents[2] / "src/ioas/testing/suite/test_no_iommu.py"
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ioas.testing.plugin", "--ioas-host=kernel"]
    done = run_as_anyone(sys.executable, *words, str(suite), options=[*NO_IOMMU, *PRIVILEGED], cwd="/")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
