"""What a mapping for DMA holds: pages of shared memory; addresses of private memory, and then it is said."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.conftest import Runner

HEAD = """
from edu import *
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
def fails(number, function, *arguments, **keywords):
    try:
        function(*arguments, **keywords)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError
MAP_FIXED = 0x10
def remap(memory, flags):
    address, length = address_of(memory), len(memory)
    assert libc.mmap(address, length, 3, flags | mmap.MAP_ANONYMOUS | MAP_FIXED, -1, 0) == address
    ctypes.memset(address, ord("N"), length)
machine = Machine()
"""
KINDS = {
    "shared anonymous": "memory = shared()",
    "memfd": "fd = os.memfd_create('ram'); os.truncate(fd, 4096); memory = mmap.mmap(fd, 4096)",
    "memfd, closed": "fd = os.memfd_create('ram'); os.truncate(fd, 4096); memory = mmap.mmap(fd, 4096); os.close(fd)",
    "System V": (
        "libc.shmat.restype = ctypes.c_void_p; segment = libc.shmget(0, 4096, 0o1600); "
        "memory = (ctypes.c_char * 4096).from_address(libc.shmat(segment, None, 0)); "
        "memory = memoryview(memory).cast('B'); libc.shmctl(segment, 0, None)"
    ),
    "/dev/shm": (
        "path = f'/dev/shm/test-ioas-{os.getpid()}'; fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600); "
        "os.truncate(fd, 4096); memory = mmap.mmap(fd, 4096); os.close(fd)"
    ),
}
PRIVATE = {
    "anonymous": "memory = private()",
    "heap": (
        "libc.aligned_alloc.restype = ctypes.c_void_p; "
        "memory = memoryview((ctypes.c_char * 4096).from_address(libc.aligned_alloc(4096, 8192))).cast('B')"
    ),
    "file": (
        "fd = os.open(sys.executable, os.O_RDONLY); "
        "memory = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)"
    ),
}


def passes(run: Runner, source: str, *options: str) -> str:
    done = run.python(HEAD + source, options=options)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    for path in Path("/dev/shm").glob("test-ioas-*"):
        path.unlink()


@pytest.fixture(params=[*KINDS, *PRIVATE])
def any_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield (KINDS | PRIVATE)[request.param]
    for path in Path("/dev/shm").glob("test-ioas-*"):
        path.unlink()


def test_dma_still_hits_the_old_page_after_munmap_and_remap(run_as_anyone: Runner, any_kind: str) -> None:
    said = passes(
        run_as_anyone,
        f"""
{any_kind}
memory[:] = b"O" * 4096
machine.map(address_of(memory), 4096)
remap(memory, mmap.MAP_SHARED)
assert machine.read(4) == b"OOOO"
machine.write(b"by the device")
assert memory[:4] == b"NNNN"
assert machine.read(13) == b"by the device"
""",
        "--strict",
        "--explain",
    )
    assert said == ""


def test_dma_still_hits_the_page_after_fork_and_a_write_by_the_parent(run_as_anyone: Runner, kind: str) -> None:
    passes(
        run_as_anyone,
        f"""
{KINDS[kind]}
machine.map(address_of(memory), 4096)
wait, go = os.pipe()
child = os.fork()
if child == 0:
    os.read(wait, 1); os._exit(memory[:4] != b"done")
memory[:4] = b"next"
assert machine.read(4) == b"next"
machine.write(b"done")
assert memory[:4] == b"done"
os.write(go, b"x")
assert os.waitpid(child, 0)[1] == 0
""",
    )


def test_dma_still_hits_the_page_after_the_exit_of_the_process_that_mapped_it(
    run_as_anyone: Runner, any_kind: str
) -> None:
    passes(
        run_as_anyone,
        f"""
child = os.fork()
if child == 0:
    {any_kind.replace("; ", chr(10) + "    ")}
    memory[:4] = b"left"
    machine.map(address_of(memory), 4096)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert machine.read(4) == b"left"
machine.write(b"over"); assert machine.read(4) == b"over"
""",
    )


def test_one_page_mapped_in_two_ways_is_one_page(run: Runner) -> None:
    passes(
        run,
        """
fd = os.memfd_create("ram"); os.truncate(fd, 16384)
memory = mmap.mmap(fd, 4096, offset=8192)
machine.map(address_of(memory), 4096)
machine.map_file(fd, 8192, 4096, iova=0x200000)
machine.write(b"one page")
assert machine.read(8, iova=0x200000) == b"one page" == memory[:8] == os.pread(fd, 8, 8192)
""",
    )


@pytest.fixture(params=list(PRIVATE))
def private(request: pytest.FixtureRequest) -> str:
    return PRIVATE[request.param]


def test_dma_hits_the_private_page_of_who_mapped_it_after_fork_and_writes_on_either_side(
    run_as_anyone: Runner, private: str
) -> None:
    passes(
        run_as_anyone,
        f"""
{private}
memory[:4] = b"both"
machine.map(address_of(memory), 4096)
wait, go = os.pipe(); told, tell = os.pipe()
child = os.fork()
if child == 0:
    memory[:4] = b"kid!"
    os.write(tell, b"x"); os.read(wait, 1)
    os._exit(memory[:4] != b"kid!")
os.read(told, 1)
assert machine.read(4) == b"both"
memory[:4] = b"mine"
assert machine.read(4) == b"mine"
machine.write(b"done")
assert memory[:4] == b"done"
os.write(go, b"x")
assert os.waitpid(child, 0)[1] == 0
""",
        "--strict",
    )


def test_dma_follows_a_private_page_that_mremap_moves_and_not_its_old_address(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
memory = private()
memory[:4] = b"here"
place = libc.mmap(None, 8192, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
machine.map(address_of(memory), 4096)
old = address_of(memory)
assert libc.mremap(old, 4096, 4096, 3, place) == place
assert libc.mmap(old, 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED, -1, 0) == old
ctypes.memset(old, ord("N"), 4096)
assert machine.read(4) == b"here"
machine.write(b"there")
assert ctypes.string_at(place, 5) == b"there"
assert ctypes.string_at(old, 5) == b"NNNNN"
""",
        "--strict",
    )


def test_two_pins_of_a_private_page_reach_the_same_bytes_and_end_one_by_one(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
memory = private(8192)
machine.map(address_of(memory), 8192)
machine.map(address_of(memory), 4096, iova=0x200000)
machine.write(b"one page", iova=0x200000)
assert machine.read(8) == b"one page" == memory[:8]
machine.unmap(8192)
assert machine.read(8, iova=0x200000) == b"one page"
remap(memory, mmap.MAP_PRIVATE)
machine.map(address_of(memory), 8192)
assert machine.read(2) == b"NN" and machine.read(3, iova=0x200000) == b"one"
""",
        "--strict",
    )


def test_a_private_page_is_one_page_while_it_is_the_same_and_another_one_after_a_new_mapping(
    run_as_anyone: Runner,
) -> None:
    """Asked as the kernel's own tests do (IOMMU_TEST_OP_MD_CHECK_MAP and _REFS)."""
    passes(
        run_as_anyone,
        """
def test(op, number, *fields):
    return call(iommufd, 0x3BA0, "=4I7Q", op, number, 0, *fields, *[0] * (7 - len(fields)))
iommufd = os.open("/dev/iommu", os.O_RDWR)
ioas = call(iommufd, IOAS_ALLOC, "=3I", 0, 0)[2]
table = test(2, ioas)[4] >> 32
memory = private(8192)
memory[:] = b"same" * 2048
def map(iova):
    call(iommufd, IOAS_MAP, "=4I3Q", FIXED | READABLE | WRITEABLE, ioas, 0, address_of(memory), 8192, iova)
map(0x10000000)
map(0x10100000)
test(3, table, 0x10000000, 8192, address_of(memory))
test(3, table, 0x10100000, 8192, address_of(memory))
test(4, 0, 8192, address_of(memory), 2)
assert memory[:] == b"same" * 2048
remap(memory, mmap.MAP_PRIVATE)
memory[:] = b"same" * 2048
fails(errno.EINVAL, test, 3, table, 0x10000000, 8192, address_of(memory))
test(4, 0, 8192, address_of(memory), 0)
map(0x10200000)
test(3, table, 0x10200000, 8192, address_of(memory))
test(4, 0, 8192, address_of(memory), 1)
""",
        "--strict",
        "--explain",
        "--iommufd-test",
    )


def test_shared_anonymous_memory_is_one_page_however_it_is_pinned(run_as_anyone: Runner) -> None:
    """Twice at one address, at another address of the same pages, and by a child."""
    passes(
        run_as_anyone,
        """
memory = shared(8192)
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
again = libc.mremap(address_of(memory), 0, 8192, 1)
machine.map(address_of(memory), 8192)
machine.map(again + 4096, 4096, iova=0x200000)
child = os.fork()
if child == 0:
    machine.map(again, 8192, iova=0x300000)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
machine.write(b"one page", iova=IOVA + 4096)
assert machine.read(8, iova=0x200000) == machine.read(8, iova=0x301000) == memory[4096:4104] == b"one page"
""",
        "--strict",
    )


def test_memory_that_can_only_be_read_is_held_by_its_address_and_this_is_said_once(run_as_anyone: Runner) -> None:
    said = passes(
        run_as_anyone,
        """
memory = private()
memory[:] = b"O" * 4096
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect(address_of(memory), 4096, 1)
for turn in range(2):
    machine.map(address_of(memory), 4096, access=READABLE)
    assert machine.read(4) == b"OOOO"
    machine.unmap(4096)
machine.map(address_of(memory), 4096, access=READABLE)
remap(memory, mmap.MAP_PRIVATE)
assert machine.read(4) == b"NNNN"
""",
        "--explain",
    )
    assert len(said.splitlines()) == 1
    assert "held by its address" in said
    assert "io_uring pins only what the program may write to" in said


def test_strict_refuses_what_follows_its_address_and_says_why(run: Runner) -> None:
    source = """
executable = os.open(sys.executable, os.O_RDONLY)
memory = libc.mmap(None, 4096, 1, mmap.MAP_PRIVATE, executable, 0)
fails(errno.EOPNOTSUPP, machine.map, memory, 4096, access=READABLE)
"""
    said = passes(run, source, "--strict", "--explain")
    assert "--strict" in said
    assert "IOMMU_IOAS_MAP" in said


def test_dma_to_memory_held_by_address_of_a_process_that_is_gone_is_a_fault(run: Runner) -> None:
    said = passes(
        run,
        """
child = os.fork()
if child == 0:
    executable = os.open(sys.executable, os.O_RDONLY)
    machine.map(libc.mmap(None, 4096, 1, mmap.MAP_PRIVATE, executable, 0), 4096, access=READABLE)
    os._exit(0)
os.waitpid(child, 0)
machine.copy(IOVA, BUFFER, 16, to_memory=False)
""",
        "--explain",
    )
    assert "DMA read of 16 bytes stopped" in said
    assert "memory behind the mapping is gone" in said


def test_what_may_not_be_pinned_is_efault(run_as_anyone: Runner, tmp_path: Path) -> None:
    passes(
        run_as_anyone,
        """
memory = private(8192)
address = address_of(memory)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
fails(errno.EFAULT, machine.map, 0, 4096)
fails(errno.EFAULT, machine.map, 2**46, 4096)
libc.mprotect(address, 4096, 1)
fails(errno.EFAULT, machine.map, address, 8192)
machine.map(address, 8192, access=READABLE); machine.unmap(8192)
libc.mprotect(address, 4096, 0)
fails(errno.EFAULT, machine.map, address, 4096, access=READABLE)
libc.munmap(address + 4096, 4096)
libc.mprotect(address, 4096, 3)
fails(errno.EFAULT, machine.map, address, 8192)
executable = os.open(sys.executable, os.O_RDONLY)
size = os.fstat(executable).st_size
beyond = libc.mmap(None, (size | 4095) + 4097, 1, mmap.MAP_PRIVATE, executable, 0)
machine.map(beyond, 4096, access=READABLE); machine.unmap(4096)
fails(errno.EFAULT, machine.map, beyond + (size | 4095) + 1, 4096, access=READABLE)
vvar = next(int(line.split("-")[0], 16) for line in open("/proc/self/maps") if "[vvar]" in line)
fails(errno.EFAULT, machine.map, vvar, 4096, access=READABLE)
""",
    )


def test_a_device_may_not_write_to_pages_of_a_file_on_a_disk(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"file" * 1024)
    if subprocess.check_output(["stat", "-f", "-c", "%T", path], text=True).strip() in ("tmpfs", "ramfs"):
        pytest.skip("the temporary directory lives in memory")
    passes(
        run,
        f"""
fd = os.open({str(path)!r}, os.O_RDWR)
memory = mmap.mmap(fd, 4096)
fails(errno.EFAULT, machine.map, address_of(memory), 4096)
machine.map(address_of(memory), 4096, access=READABLE)
assert machine.read(4) == b"file"
""",
    )


def test_a_file_made_shorter_takes_its_pages_away_and_harms_nobody(run: Runner) -> None:
    passes(
        run,
        """
fd = os.memfd_create("ram"); os.truncate(fd, 8192)
memory = mmap.mmap(fd, 8192)
machine.map(address_of(memory), 8192)
os.truncate(fd, 0)
machine.copy(IOVA, BUFFER, 16, to_memory=False)
machine.copy(BUFFER, IOVA, 16, to_memory=True)
fails(errno.EINVAL, machine.map_file, fd, 0, 4096, iova=0x200000)
assert os.fstat(fd).st_size == 0
""",
    )


def test_other_files_cannot_be_mapped_by_descriptor(run: Runner) -> None:
    passes(
        run,
        """
fails(errno.EINVAL, machine.map_file, 0, 0, 4096)
fails(errno.EINVAL, machine.map_file, os.open(sys.executable, os.O_RDONLY), 0, 4096)
fails(errno.EINVAL, machine.map_file, machine.iommufd, 0, 4096)
fails(errno.EBADF, machine.map_file, 77, 0, 4096)
fd = os.memfd_create("ram"); os.truncate(fd, 4096)
fails(errno.EINVAL, machine.map_file, fd, 0, 8192)
""",
    )


@pytest.mark.parametrize("memory", ["shared", "private"])
def test_pins_show_in_the_status_file_once_and_nothing_else_there_changes(run_as_anyone: Runner, memory: str) -> None:
    passes(
        run_as_anyone,
        f"""
def status(path):
    return [line for line in open(path) if not line.startswith(("Vm", "Rss", "SigQ", "voluntary", "nonvoluntary"))], {{
        line.split()[0]: line for line in open(path) if line.startswith(("VmPin", "VmLck"))}}
before, numbers = status("/proc/self/status")
memory = {memory}(1 << 20)
machine.map(address_of(memory), 1 << 20)
for path in ("/proc/self/status", f"/proc/{{os.getpid()}}/status"):
    after, pinned = status(path)
    assert after == before
    assert pinned["VmPin:"] == "VmPin:\\t    1024 kB\\n", pinned
machine.unmap(1 << 20)
assert status("/proc/self/status")[1] == numbers
""",
    )


def test_nothing_stays_pinned_when_a_buffer_goes(run: Runner) -> None:
    """The supervisor keeps no file of the program's open once nothing is mapped."""
    passes(
        run,
        """
def kept():
    links = []
    for name in os.listdir(f"/proc/{os.getppid()}/fd"):
        try:
            links.append(os.readlink(f"/proc/{os.getppid()}/fd/{name}"))
        except OSError:
            pass
    return [link for link in links if "memfd:mine" in link]
fd = os.memfd_create("mine"); os.truncate(fd, 4096)
machine.map_file(fd, 0, 4096)
assert len(kept()) == 1
machine.unmap(4096)
deadline = time.monotonic() + 5
while kept():
    assert time.monotonic() < deadline
    time.sleep(0.05)
""",
        "--no-namespace",  # in a user namespace the program may not look at the supervisor's descriptors
    )


def test_huge_pages_are_read_and_written_by_dma(run: Runner) -> None:
    with open("/proc/meminfo") as meminfo:
        free = next(int(line.split()[1]) for line in meminfo if line.startswith("HugePages_Free"))
    if not free:
        pytest.skip("no free huge page (vm.nr_hugepages)")
    passes(
        run,
        """
fd = os.memfd_create("huge", os.MFD_HUGETLB); os.truncate(fd, 2 << 20)
memory = mmap.mmap(fd, 2 << 20)
machine.map(address_of(memory), 2 << 20)
memory[1 << 20:(1 << 20) + 4] = b"huge"
assert machine.read(4, iova=IOVA + (1 << 20)) == b"huge"
machine.write(b"page", iova=IOVA + (1 << 20))
assert memory[1 << 20:(1 << 20) + 4] == b"page"
os.truncate(fd, 0)
machine.copy(BUFFER, IOVA, 16, to_memory=True)
""",
    )
