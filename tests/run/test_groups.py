"""Groups and containers as an unmodified program has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.conftest import NO_NAMESPACE, Runner

MACHINES = {
    "vfio": '[machine]\ncontainer = "vfio"\n',
    "iommufd": '[machine]\ncontainer = "iommufd"\n',
    "none": '[machine]\ncontainer = "none"\n',
}


def machine(place: Path, container: str, devices: int = 1) -> list[str]:
    """Options for a machine of which `container` serves /dev/vfio/vfio."""
    file = place / "machine.toml"
    file.write_text(MACHINES[container] + '[[device]]\nmodel = "edu"\n' * devices)
    return ["--machine", str(file)]


def passes(run: Runner, source: str, options: list[str] | None = None) -> None:
    done = run.python("from container import *\nimport errno\n" + source, options=options or [])
    assert (NO_NAMESPACE.sub("", done.stderr), done.returncode) == ("", 0)


@pytest.mark.parametrize("container", ["vfio", "iommufd"])
def test_a_device_is_given_out_and_reads_as_itself(run: Runner, open_directory: Path, container: str) -> None:
    passes(
        run,
        """
group = open_group()
container = open_container(group)
device = give(group)
assert os.pread(device, 4, CONFIG) == bytes.fromhex("3412e811")
assert not os.get_inheritable(device)
memory = mmap.mmap(-1, 8192)
map_dma(container, address(memory), 8192)
assert unmap_dma(container, 8192) == 8192
""",
        machine(open_directory, container),
    )


def test_a_machine_without_containers_takes_an_iommufd(run: Runner, open_directory: Path) -> None:
    passes(
        run,
        """
assert not os.path.exists("/dev/vfio/vfio")
group = open_group()
container = open_container(group, node="/dev/iommu")
assert os.pread(give(group), 2, CONFIG) == b"\\x34\\x12"
""",
        machine(open_directory, "none"),
    )


def test_what_is_closed_in_any_order_is_free_at_once(run: Runner) -> None:
    passes(
        run,
        """
import itertools
for order in itertools.permutations(range(3)):
    group = open_group()
    files = [group, open_container(group), give(group)]
    memory = mmap.mmap(-1, 4096)
    map_dma(files[1], address(memory), 4096)
    for index in order:
        os.close(files[index])
    os.close(os.open("/dev/vfio/devices/vfio0", os.O_RDWR))
""",
    )


def test_the_group_stays_while_a_child_has_its_device(run: Runner) -> None:
    """The container and the group are kept by the device, and the device by whoever has a descriptor of it."""
    passes(
        run,
        """
group = open_group()
container = open_container(group)
device = give(group)
ready, go = os.pipe(), os.pipe()
if not os.fork():
    os.close(go[1])
    os.close(group), os.close(container)
    os.write(ready[1], b"1")
    os.read(go[0], 1)
    os._exit(0)
os.close(go[0])
for fd in (group, container, device):
    os.close(fd)
os.read(ready[0], 1)
try:
    open_group()
    raise SystemExit("the group is free")
except OSError as error:
    assert error.errno == errno.EBUSY
os.close(go[1])
os.wait()
open_group()
""",
    )


def test_locked_memory_is_shown_as_the_kernel_shows_it(run: Runner) -> None:
    passes(
        run,
        """
group = open_group()
container = open_container(group)
memory = mmap.mmap(-1, 16384)
before = locked()
map_dma(container, address(memory), 16384)
assert locked() - before == 16, locked()
unmap_dma(container, 16384)
assert locked() == before
""",
    )


def test_memory_stays_pinned_when_the_program_unmaps_it(run: Runner) -> None:
    """What the container maps is the page, not the address: the device finds it when something else stands there."""
    passes(
        run,
        """
group = open_group()
container = open_container(group)
device = give(group)
memory = mmap.mmap(-1, 4096)
memory[:4] = b"kept"
map_dma(container, address(memory), 4096)
at = address(memory)
_libc = ctypes.CDLL(None)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
assert _libc.mmap(at, 4096, 3, 0x32, -1, 0) == at  # MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE in its place
os.pwrite(device, b"\\x06\\x00", CONFIG + 4)
for offset, value in ((0x80, IOVA), (0x88, 0x40000), (0x90, 4), (0x98, 1)):
    os.pwrite(device, struct.pack("<Q", value), offset)
while os.pread(device, 8, 0x98)[0] & 1:
    pass
map_dma(container, at, 4096, iova=2 * IOVA)
for offset, value in ((0x80, 0x40000), (0x88, 2 * IOVA), (0x90, 4), (0x98, 3)):
    os.pwrite(device, struct.pack("<Q", value), offset)
while os.pread(device, 8, 0x98)[0] & 1:
    pass
assert ctypes.string_at(at, 4) == b"kept"
""",
    )


BUSY = """
from container import *
import edu
machine = edu.Machine()
try:
    open_group()
except OSError as error:
    print(error.errno)
"""


def test_a_busy_group_is_explained_by_the_device_whose_cdev_is_bound(run: Runner) -> None:
    done = run.python(BUSY, options=["--explain"])
    assert done.stdout == "16\n"
    line = next(line for line in done.stderr.splitlines() if "EBUSY" in line)
    assert "/dev/vfio/2" in line
    assert "0000:01:00.0 is bound by its cdev" in line


UNSET = """
from container import *
container = os.open("/dev/vfio/vfio", os.O_RDWR)
try:
    map_dma(container, 0, 4096)
except OSError as error:
    print(error.errno)
"""


def test_a_map_before_set_iommu_is_explained(run: Runner) -> None:
    done = run.python(UNSET, options=["--explain"])
    assert done.stdout == "22\n"
    line = next(line for line in done.stderr.splitlines() if "EINVAL" in line)
    assert "ioctl(VFIO_IOMMU_MAP_DMA" in line
    assert "VFIO_SET_IOMMU" in line


def test_a_device_reaches_the_registers_of_another_that_the_program_has_mapped(
    run: Runner, open_directory: Path
) -> None:
    """The BAR of one is mapped into the program, and from there into the container: peer-to-peer DMA."""
    passes(
        run,
        """
first, second = "0000:01:00.0", "0000:02:00.0"
groups = [open_group(first), open_group(second)]
container = open_container(*groups)
target, source = give(groups[0], first), give(groups[1], second)
for device in (target, source):
    os.pwrite(device, b"\\x06\\x00", CONFIG + 4)
registers = mmap.mmap(target, 1 << 20)
map_dma(container, address(registers), 1 << 20)
memory = mmap.mmap(-1, 4096)
memory[:4] = struct.pack("<I", 0x12345678)
map_dma(container, address(memory), 4096, iova=16 * IOVA)

def copy(origin, destination, direction):
    for offset, value in ((0x80, origin), (0x88, destination), (0x90, 4), (0x98, 1 | direction)):
        os.pwrite(source, struct.pack("<Q", value), offset)
    while os.pread(source, 8, 0x98)[0] & 1:
        pass

copy(16 * IOVA, 0x40000, 0)  # from memory to the source's buffer
copy(0x40000, IOVA + 4, 2)  # from there to the target's register that inverts
assert struct.unpack("<I", os.pread(target, 4, 4))[0] == ~0x12345678 & 0xFFFFFFFF
assert locked() >= 4
assert unmap_dma(container, 1 << 20) == 1 << 20
""",
        machine(open_directory, "vfio", devices=2),
    )
