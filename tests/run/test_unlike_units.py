"""Programs on machines with several IOMMUs, and with PASIDs: what they get, and what `--explain` says."""

from __future__ import annotations

from pathlib import Path

from tests.run.conftest import Runner

TWO = """
[[unit]]
[[unit]]
address_width = 39

[[device]]
model = "edu"

[[device]]
model = "edu"
unit = "dmar1"
"""
HIGH = """
import ioas
host = ioas.KernelHost()
with host.iommufd() as iommufd, host.device("0000:01:00.0") as big, host.device("0000:02:00.0") as small:
    big.bind(iommufd)
    small.bind(iommufd)
    space = iommufd.ioas()
    big.attach(space)
    print([hex(found.last) for found in space.ranges()])
    high = space.alloc(1 << 21, iova=1 << 40)
    try:
        small.attach(space)
    except ioas.errors.AddressInUse as error:
        print(error.errno)
    high.close()
    small.attach(space)
    print([hex(found.last) for found in space.ranges()])
"""
SCALABLE = """
[[unit]]
scalable = true

[[device]]
model = "testdev"
"""
PASIDS = """
import ioas, time
from ioas.devices.testdev import DONE, ELEMENT, PASID_ON, START, STOPPED, TestDevice as T
host = ioas.KernelHost()
with host.iommufd() as iommufd, host.device("0000:01:00.0") as device:
    device.bind(iommufd)
    device.bus_master = True
    print("width", device.hw_info().max_pasid_log2)
    registers = device.bar(0)
    pages = {}
    for pasid in (5, 6):
        space = iommufd.ioas()
        device.attach(iommufd.hwpt(device, space, pasid=True), pasid)
        pages[pasid] = space.alloc(4096, writable=True, iova=0x100000)
        pages[pasid].view[:32] = ELEMENT.pack(0x100100, 0x100200, 4, 0, 0)
        pages[pasid].view[0x100:0x104] = b"of %d" % pasid
    for pasid in (5, 6, 7):
        registers.write64(T.list_address.offset, 0x100000)
        registers.write32(T.list_length.offset, 1)
        registers.write32(T.pasid.offset, PASID_ON | pasid)
        with device.irqs("msix", 1) as irqs:
            registers.write32(T.command.offset, START)
            irqs[0].wait(30)
        print(pasid, {DONE: "done", STOPPED: "stopped"}[registers.read32(T.status.offset)])
    print(bytes(pages[5].view[0x200:0x204]), bytes(pages[6].view[0x200:0x204]))
"""


def machine(directory: Path, text: str) -> list[str]:
    file = directory / "lab.toml"
    file.write_text(text)
    return ["--machine", str(file), "--explain", "--cap", "ipc_lock"]


def test_a_device_that_cannot_reach_what_is_mapped_is_explained(run: Runner, tmp_path: Path) -> None:
    done = run.python(HIGH, options=machine(tmp_path, TWO))
    assert done.stdout.splitlines() == [
        "['0xfedfffff', '0xffffffffffff']",
        "98",
        "['0xfedfffff', '0x7fffffffff']",
    ]
    (line,) = [line for line in done.stderr.splitlines() if "EADDRINUSE" in line]
    assert "ioctl(VFIO_DEVICE_ATTACH_IOMMUFD_PT" in line
    assert "area 0x10000000000-0x100001fffff" in line
    assert "outside the aperture 0x0-0x7fffffffff of dmar1 before 0000:02:00.0" in line


def test_a_program_gives_each_pasid_an_address_space(run: Runner, tmp_path: Path) -> None:
    done = run.python(PASIDS, options=machine(tmp_path, SCALABLE))
    assert done.stdout.splitlines() == ["width 20", "5 done", "6 done", "7 stopped", "b'of 5' b'of 6'"]
    said = "0000:01:00.0: DMA read of 32 bytes stopped by the IOMMU at IOVA 0x100000, PASID 7: no address space"
    assert said in done.stderr
