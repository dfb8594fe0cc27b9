"""What a program meets behind a small IOMMU: 39 bits, no interrupt remapping, no snoop control; on any host.

The same questions are put to the software host (tests/unit) and to Linux 7.3.4 in QEMU (tests/kernel): the answers
have to be those that stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ioas.api import Device, Ioas, Iommufd
from ioas.api.container_space import ContainerSpace
from ioas.api.host import BaseHost
from ioas.errors import KernelError
from ioas.uapi.iommufd import iommu_hw_info_vtd
from ioas.uapi.vfio import VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU

MACHINE = """
[[unit]]
address_width = 39
interrupt_remapping = false
snoop_control = false

[[device]]
model = "edu"
"""
LAST = (1 << 39) - 1
MSI = (0xFEE0_0000, 0xFEEF_FFFF)
USABLE = [(0, MSI[0] - 1), (MSI[1] + 1, LAST)]
SetParameter = Callable[[str, bool], None]
"""Sets allow_unsafe_interrupts of a module."""
Answer = tuple[str, object]

EXPECTED: list[Answer] = [
    ("bind", "EPERM"),
    ("container", "EPERM"),
    ("bind, allowed", None),
    ("ranges before", [(0, (1 << 64) - 1)]),
    ("ranges", USABLE),
    ("alignment", 4096),
    ("map the last page", None),
    ("map beyond", "EINVAL"),
    ("map over interrupts", "EINVAL"),
    ("allow beyond", "EADDRINUSE"),
    ("allow inside", None),
    ("levels, width, remapping, snoop", (0b00010, 39, 0, 0)),
    ("coherency is enforced", 0),
    ("nesting parent", "EOPNOTSUPP"),
    ("dirty tracking", "EOPNOTSUPP"),
    ("table for PASIDs", None),
    ("ranges after detach", [(0, (1 << 64) - 1)]),
    ("attach with a mapping above", "EADDRINUSE"),
    ("attach with a promise above", "EADDRINUSE"),
    ("attach with neither", None),
    ("container's ranges", USABLE),
    ("container maps the last page", None),
    ("container maps beyond", "EINVAL"),
    ("container enforces coherency", 0),
]


def tried(call: Callable[[], object]) -> str | None:
    """The errno's name, or None when it worked."""
    try:
        call()
    except KernelError as error:
        return error.refusal.name
    return None


def ranges(space: Ioas | ContainerSpace) -> list[tuple[int, int]]:
    """What can be mapped."""
    return [(found.start, found.last) for found in space.ranges()]


def answers(host: BaseHost, bdf: str, allow: SetParameter) -> Iterator[Answer]:
    """Ask everything; `allow` is left off."""
    with host.iommufd() as iommufd:
        with host.device(bdf, via="cdev") as device:
            yield "bind", tried(lambda: device.bind(iommufd))
        yield "container", tried(lambda: _use_container(host, bdf))
        allow("iommufd", True)
        with host.device(bdf, via="cdev") as device:
            yield "bind, allowed", tried(lambda: device.bind(iommufd))
            yield from _of_iommufd(iommufd, device)
        allow("iommufd", False)
    allow("vfio_iommu_type1", True)
    yield from _of_container(host, bdf)
    allow("vfio_iommu_type1", False)


def _of_iommufd(iommufd: Iommufd, device: Device) -> Iterator[Answer]:
    space = iommufd.ioas()
    yield "ranges before", ranges(space)
    device.attach(space)
    yield "ranges", ranges(space)
    yield "alignment", space.alignment
    for what, iova in (("the last page", LAST - 4095), ("beyond", LAST + 1), ("over interrupts", MSI[0])):
        yield f"map {what}", tried(lambda iova=iova: space.alloc(4096, iova=iova))  # type: ignore[misc]
    yield "allow beyond", tried(lambda: space.allow([(MSI[1] + 1, LAST + 4096)]))
    yield "allow inside", tried(lambda: space.allow([(MSI[1] + 1, LAST)]))
    info = iommu_hw_info_vtd.from_buffer_copy(device.hw_info().data)
    cap, ecap = info.cap_reg, info.ecap_reg
    yield "levels, width, remapping, snoop", (cap >> 8 & 0x1F, (cap >> 16 & 0x3F) + 1, ecap >> 3 & 1, ecap >> 7 & 1)
    iommufd.vfio_ioas = space.id
    yield "coherency is enforced", iommufd.ioctl(VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU)
    for what, flag in (("nesting parent", "nest_parent"), ("dirty tracking", "dirty"), ("table for PASIDs", "pasid")):
        yield what, tried(lambda flag=flag: iommufd.hwpt(device, iommufd.ioas(), **{flag: True}))  # type: ignore[misc]
    device.detach()
    yield "ranges after detach", ranges(space)
    high = iommufd.ioas()
    mapping = high.alloc(4096, iova=LAST + 1)
    yield "attach with a mapping above", tried(lambda: device.attach(high))
    mapping.close()
    high.allow([(0, LAST + 4096)])
    yield "attach with a promise above", tried(lambda: device.attach(high))
    high.allow([])
    yield "attach with neither", tried(lambda: device.attach(high))


def _use_container(host: BaseHost, bdf: str) -> None:
    with host.container("type1v2") as container, host.device(bdf, via="group") as device:
        device.bind(container)


def _of_container(host: BaseHost, bdf: str) -> Iterator[Answer]:
    with host.container("type1v2") as container, host.device(bdf, via="group") as device:
        device.bind(container)
        space = container.ioas()
        assert isinstance(space, ContainerSpace)
        yield "container's ranges", ranges(space)
        yield "container maps the last page", tried(lambda: space.alloc(4096, iova=LAST - 4095))
        yield "container maps beyond", tried(lambda: space.alloc(4096, iova=LAST + 1))
        yield "container enforces coherency", container.extension(VFIO_DMA_CC_IOMMU)
