"""The steps of a sequence: each draws what it needs, and makes one call (or something that stands between calls)."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import sizeof
from random import Random

from ioas.soft.iommu.formats import x86fs
from ioas.soft.iommufd import Device, bind_device
from ioas.soft.iommufd.eventq import EventFile
from ioas.soft.iommufd.mock_commands import TEST_COMMANDS
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi, vfio as vfio_uapi
from ioas.uapi.base import Struct
from tests.fuzz.machine import Machine
from tests.fuzz.recipes import RECIPES
from tests.fuzz.scenarios import SCENARIOS
from tests.fuzz.values import APERTURE, PAGE, U64, WILD, Values
from tests.support.caller import FakeFile

_BY_FILE = {
    test_uapi.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
    test_uapi.IOMMU_TEST_OP_ACCESS_PAGES,
    test_uapi.IOMMU_TEST_OP_ACCESS_RW,
    test_uapi.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
}
"""Test operations whose `id` is the descriptor of an access."""
_MEMBERS = {
    getattr(test_uapi, name): name.removeprefix("IOMMU_TEST_OP_").lower().removeprefix("md_")
    for name in vars(test_uapi)
    if name.startswith("IOMMU_TEST_OP_")
} | {
    test_uapi.IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT: "memory_limit",
    test_uapi.IOMMU_TEST_OP_DEV_CHECK_CACHE: "check_dev_cache",
    test_uapi.IOMMU_TEST_OP_PASID_CHECK_HWPT: "pasid_check",
}
"""The member of iommu_test_cmd's union, by operation."""
_OPERATIONS = [*_MEMBERS, 0, 99]
_COMMANDS = [command for request, command in TEST_COMMANDS.items() if request != test_uapi.IOMMU_TEST_CMD]
_CONTAINER: list[tuple[int, type[Struct]]] = [
    (vfio_uapi.VFIO_IOMMU_MAP_DMA, vfio_uapi.vfio_iommu_type1_dma_map),
    (vfio_uapi.VFIO_IOMMU_UNMAP_DMA, vfio_uapi.vfio_iommu_type1_dma_unmap),
    (vfio_uapi.VFIO_IOMMU_GET_INFO, vfio_uapi.vfio_iommu_type1_info),
]
_BY_VALUE = (vfio_uapi.VFIO_GET_API_VERSION, vfio_uapi.VFIO_CHECK_EXTENSION, vfio_uapi.VFIO_SET_IOMMU)
_SIZES = (0, 4, 8, 12, 16, 20, 23, 24, 28, 31, 32, 39, 40, 44, 48, 64, 72, 80, PAGE, (1 << 32) - 1)
Step = Callable[[Machine, Values], object]


def command(machine: Machine, values: Values) -> None:
    """Any command but the tests'."""
    row = values.choose(_COMMANDS)
    struct = row.struct()
    values.fill(struct)
    _call(machine, values, row.request, struct)


def test_operation(machine: Machine, values: Values) -> None:
    """Any of the tests' operations."""
    op = values.choose(_OPERATIONS)
    struct = test_uapi.iommu_test_cmd(size=sizeof(test_uapi.iommu_test_cmd), op=op)
    struct.id = values.access() if op in _BY_FILE else values.identity("id")
    member = getattr(struct, _MEMBERS.get(op, "last"))
    if isinstance(member, Struct):
        values.fill(member)
    _call(machine, values, test_uapi.IOMMU_TEST_CMD, struct)


def container(machine: Machine, values: Values) -> None:
    """A request of a VFIO container."""
    if values.percent(25):
        machine.ioctl(values.choose(_BY_VALUE), values.choose((0, 1, 3, 4, 9, 8, U64)))
        return
    request, kind = values.choose(_CONTAINER)
    struct = kind()
    values.fill(struct)
    _call(machine, values, request, struct)


def unknown(machine: Machine, values: Values) -> None:
    """A request that may be nobody's."""
    request = values.choose((0, 0x3B00, 0x5401, uapi.IOMMU_DESTROY)) + values.random.randrange(256)
    by_value = request in _BY_VALUE
    machine.ioctl(request, values.address() if by_value or values.percent(50) else bytearray(8))


def _call(machine: Machine, values: Values, request: int, struct: Struct) -> None:
    """Make the call: the structure in memory of the process, in a buffer, or as it is; now and then of a wrong size."""
    tail = b""
    if values.percent(4):
        struct.__setattr__("argsz" if hasattr(struct, "argsz") else "size", values.choose(_SIZES))
        tail = values.choose((b"", bytes(8), b"\1", bytes(7) + b"\1"))
    how = values.random.randrange(20)
    if how == 0:
        machine.ioctl(request, values.choose((machine.hole, 0, *WILD)))
    elif how == 1:
        machine.ioctl(request, bytes(struct)[: values.random.randrange(64)])
    elif how < 8:
        place = machine.scratch + 5 * PAGE + values.choose((0, 0, PAGE - 32, PAGE - 8))
        machine.caller.memory.write(place, (bytes(struct) + tail)[: machine.scratch + 6 * PAGE - place])
        machine.ioctl(request, place)
    elif tail or how < 12:
        machine.ioctl(request, bytearray(bytes(struct) + tail))
    else:
        machine.ioctl(request, struct)


def scribble(machine: Machine, values: Values) -> None:
    """Write what commands find behind their pointers: user data, entries, ranges, bitmaps."""
    kind = values.choose(_DATA)
    data = b"".join(kind(values) for _ in range(3))
    machine.caller.memory.write(machine.scratch + PAGE * values.random.randrange(2), data)


def _words(values: Values) -> bytes:
    return b"".join(values.choose((0, 1, 3, 4, 0xFF, (1 << 32) - 1)).to_bytes(4, "little") for _ in range(6))


def _ranges(values: Values) -> bytes:
    start = values.iova()
    return bytes(uapi.iommu_iova_range(start=start, last=min(start + values.choose((-1, 0, PAGE, 1 << 20)) & U64, U64)))


def _first_stage(values: Values) -> bytes:
    width = values.choose((48, 48, 48, 39, 57, 0, 64, (1 << 32) - 1))
    return bytes(uapi.iommu_hwpt_vtd_s1(flags=values.choose((0, 0, 1, 2, 4)), pgtbl_addr=APERTURE, addr_width=width))


def _first_stage_flush(values: Values) -> bytes:
    pages = values.choose((0, 1, 512, U64))
    return bytes(uapi.iommu_hwpt_vtd_s1_invalidate(addr=values.choose((0, 0, PAGE, 5)), npages=pages, flags=0))


_DATA = (_words, _words, _ranges, _first_stage, _first_stage, _first_stage_flush)


def edit_table(machine: Machine, values: Values) -> None:
    """Change an entry of what may be a first-stage table: pages that lead to each other."""
    entry = APERTURE + PAGE * values.random.randrange(8) | x86fs.P | x86fs.US | x86fs.RW
    entry ^= values.choose((0, 0, 0, 0, x86fs.P, x86fs.RW, x86fs.US, x86fs.PS))
    place = machine.data + PAGE * values.random.randrange(4) + 8 * values.choose((0, 0, 0, 1, 511))
    machine.caller.memory.write(place, entry.to_bytes(8, "little"))


def use_file(machine: Machine, values: Values) -> None:
    """Something with a file that a command has made."""
    fd = values.fd()
    file = machine.caller.files.get(fd)
    if file is None or isinstance(file, FakeFile):
        return
    machine.calls += 1
    what = values.random.randrange(7)
    if what == 0:
        del machine.caller.files[fd]
        file.close()
    elif what == 1:
        file.ioctl(machine.caller, values.random.randrange(1 << 16), bytearray(8))
    elif what == 2:
        file.poll(machine.caller)
        file.mmap(machine.caller, PAGE, 3, 1, 0)
    elif what == 3:
        file.write(machine.caller, _answers(values), None)
    elif what == 4 and isinstance(file, EventFile):
        file.watch(lambda: None)
        file.read(machine.caller, 400, None)
        file.restore()
    else:
        file.read(machine.caller, values.choose((0, 8, 12, 48, 40, 40, 400, 64)), values.choose((None, None, None, 0)))


def _answers(values: Values) -> bytes:
    responses = (
        uapi.iommu_hwpt_page_response(cookie=values.random.randrange(4), code=values.choose((0, 1, 2)))
        for _ in range(values.choose((1, 1, 2)))
    )
    return b"".join(map(bytes, responses))[: values.choose((4, 8, 16, 16, 16))]


def use_context(machine: Machine, values: Values) -> None:
    """What an iommufd can do besides ioctl."""
    context, caller = machine.context, machine.caller
    machine.calls += 1
    what = values.random.randrange(6)
    if what == 0:
        machine.open()
    elif what == 1:
        machine.close()
    elif what == 2:
        machine.turn()
    elif what == 3:
        context.poll(caller)
        context.read(caller, 8, None)
    elif what == 4:
        context.write(caller, b"x", None)
    else:
        context.mmap(caller, values.choose((0, PAGE, 2 * PAGE)), values.choose((1, 3, 4)), values.choose((1, 2)), PAGE)


def change_memory(machine: Machine, values: Values) -> None:
    """Move a page, take one away, or put it back."""
    memory, page = machine.caller.memory, values.random.randrange(6)
    at = machine.data + page * PAGE
    if values.percent(40):
        memory.unmap(at, 1)
    memory.map(1, at=at, ram=machine.rams[values.choose((1, 2))], first=page, write=values.percent(80))


def arm(machine: Machine, values: Values) -> None:
    """Let an allocation to come fail."""
    machine.system.failures.arm(machine.caller.pid, values.choose((0, 1, 1, 2, 3, 4, 5, 8, 13)))


def other_caller(machine: Machine, values: Values) -> None:
    """Let the other process go on, or change what this one may."""
    if values.percent(60):
        machine.caller = machine.callers[values.choose((0, 0, 0, 1))]
    else:
        machine.grant()


def bind(machine: Machine, values: Values) -> None:
    """Bind a device of the machine to the iommufd."""
    machine.calls += 1
    machine.devices.append(bind_device(machine.context, values.choose(machine.requesters)))


def attach(machine: Machine, values: Values) -> None:
    """Attach, replace, detach or unbind a device of the machine."""
    if not machine.devices:
        return
    machine.calls += 1
    device = values.choose(machine.devices)
    pasid = values.choose((None, None, None, 1, 1 << 20))
    what = values.random.randrange(9)
    if what == 0:
        machine.devices.remove(device)
        device.unbind()
    elif what == 1:
        device.detach(pasid)
    elif what < 5:
        device.replace(_table_for(device, values), pasid)
    else:
        device.attach(_table_for(device, values), pasid)


def _table_for(device: Device, values: Values) -> int:
    ids = [entry.id for entry in device.context.objects]
    return values.choose(ids) if ids and values.percent(95) else 0


def dma(machine: Machine, values: Values) -> None:
    """Let a device of the machine read, write, or ask for a page."""
    requester = values.choose(machine.requesters)
    machine.calls += 1
    iova, length = (
        values.choose((values.iova(), PAGE * values.random.randrange(4))),
        values.choose((1, 8, 16, PAGE, PAGE + 1)),
    )
    what = values.random.randrange(4)
    if what == 0 and requester.pager is not None:
        requester.pager(iova, values.percent(50), values.choose((None, None, 1)), lambda there: None)
    elif what == 1:
        requester.dma.write(iova, bytes(length))
    else:
        requester.dma.read(iova, length)


_STEPS: tuple[tuple[int, Step], ...] = (
    *RECIPES,
    *SCENARIOS,
    (20, command),
    (20, test_operation),
    (5, container),
    (1, unknown),
    (6, scribble),
    (2, edit_table),
    (6, use_file),
    (2, use_context),
    (1, change_memory),
    (3, arm),
    (1, other_caller),
    (2, bind),
    (4, attach),
    (3, dma),
)
_WEIGHTED = [step for weight, step in _STEPS for _ in range(weight)]


def begin(machine: Machine, values: Values) -> None:
    """An address space or two, and mostly a mock device: what nearly every call needs."""
    for _ in range(values.choose((1, 2, 2, 0))):
        machine.ioctl(uapi.IOMMU_IOAS_ALLOC, uapi.iommu_ioas_alloc(size=12))
    for _ in range(values.choose((0, 1, 1, 2))):
        struct = test_uapi.iommu_test_cmd(size=sizeof(test_uapi.iommu_test_cmd), id=values.identity("ioas_id"))
        struct.op = test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS
        struct.mock_domain_flags.dev_flags = values.choose((4, 4, 0, 1))
        machine.ioctl(test_uapi.IOMMU_TEST_CMD, struct)


def step(machine: Machine, random: Random) -> None:
    """One step. Raises KernelError for what is refused, and nothing else."""
    values = Values(machine, random)
    values.choose(_WEIGHTED)(machine, values)
