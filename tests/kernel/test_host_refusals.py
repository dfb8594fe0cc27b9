"""What `KernelHost` says when something is not there, not allowed, held by others, or taken away."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ioas
from ioas.api import Device, Ioas
from ioas.errors import (
    AlreadyExists,
    BadAddress,
    BadFile,
    Busy,
    InvalidArgument,
    KernelError,
    NoDevice,
    NotFound,
    Overflow,
    UsageError,
)
from ioas.testing.suite.edu import IOVA, PATIENCE
from tests.support.kernel_host import IGB, address, edu_address

PAGE = 4096
SEE = """
import sys, ioas
host = ioas.KernelHost()
devices = lambda: host.device(sys.argv[1]), lambda: host.device(sys.argv[1], via="group")
for ask in (host.iommufd, host.container, *devices):
    try:
        print("opened", ask().path)
    except ioas.errors.IoasError as error:
        print(type(error).__name__, error)
"""
NOBODY = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])"


def see(*before: str, bdf: str) -> list[str]:
    """What a program finds: of /dev/iommu, /dev/vfio/vfio, the device, and the device by its group."""
    command = [*before, sys.executable, "-W", "ignore", "-c", SEE, bdf]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def host() -> Iterator[ioas.KernelHost]:
    with ioas.KernelHost() as host:
        yield host


@pytest.fixture
def bound(host: ioas.KernelHost) -> Iterator[tuple[Device, Ioas]]:
    with host.iommufd() as iommufd, host.device(edu_address(host)) as device:
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        yield device, space


def test_a_node_without_permission_says_who_may(host: ioas.KernelHost) -> None:
    iommu, container, device, group = see(sys.executable, "-c", NOBODY, bdf=edu_address(host))
    for line in (iommu, device, group):
        assert line.startswith("AccessDenied EACCES")
        assert "for user root" in line
        assert "this process is user nobody in group nogroup" in line
    assert container == "opened /dev/vfio/vfio"  # which is for everybody, as Linux has it


def masked(script: str) -> tuple[str, ...]:
    """A command to run another in a mount namespace of its own, after `script`."""
    return "unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("mount -t tmpfs none /dev", "the kernel has it, but this /dev has no node for it"),
        ("mount -t tmpfs none /dev && mount --bind /proc/version /proc/misc",
         "this kernel has none (CONFIG_"),
    ],
)  # fmt: skip
def test_a_kernel_without_iommufd_or_a_dev_without_the_node_is_told(
    host: ioas.KernelHost, script: str, reason: str
) -> None:
    iommu, container, device, group = see(*masked(script), bdf=edu_address(host))
    assert iommu.startswith(f"NotFound ENOENT: /dev/iommu cannot be opened: {reason}")
    assert container.startswith(f"NotFound ENOENT: /dev/vfio/vfio cannot be opened: {reason}")
    assert device.startswith("NotFound ENOENT: /dev/vfio/devices/")
    assert group.startswith("NotFound ENOENT: /dev/vfio/")


def test_without_iommufd_a_device_comes_out_of_its_group(host: ioas.KernelHost) -> None:
    hide = "mount -t tmpfs none /mnt && mknod /mnt/gone c 10 63 && mount --bind /mnt/gone /dev/iommu"
    iommu, _, device, group = see(*masked(hide), bdf=edu_address(host))
    assert iommu.startswith("NoDevice ENODEV: /dev/iommu cannot be opened")
    assert device == group
    assert device.startswith("opened /dev/vfio/")


def test_a_device_that_vfio_does_not_have_says_who_holds_it(host: ioas.KernelHost) -> None:
    held = [one for one in host.sysfs.devices() if one.driver not in (None, "vfio-pci")]
    free = [one for one in host.sysfs.devices() if one.driver is None]
    for one in held[:1]:
        with pytest.raises(UsageError, match=f"held by driver {one.driver}.*bound to vfio-pci"):
            host.device(one.bdf)
    with pytest.raises(UsageError, match="has no driver"):
        host.device(free[0].bdf)
    with pytest.raises(UsageError, match="no PCI device"):
        host.device("0000:ee:00.0")


def test_a_group_and_its_device_s_own_node_exclude_each_other(host: ioas.KernelHost) -> None:
    bdf = edu_address(host)
    with host.device(bdf, via="cdev") as device:
        device.space()
        with pytest.raises(Busy, match=f"this process has its device {bdf} open by /dev/vfio/devices"):
            host.device(bdf, via="group")
    with (
        host.device(bdf, via="group"),
        host.device(bdf, via="cdev") as device,
        pytest.raises(Busy, match="open by /dev"),
    ):
        device.space()


def test_another_program_s_group_is_named(host: ioas.KernelHost) -> None:
    hold = (
        "import sys, ioas; d = ioas.KernelHost().device(sys.argv[1], via='group'); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", hold, edu_address(host)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=rf"process {other.pid} \(python.*\) has it open"):
            host.device(edu_address(host), via="group")
        other.kill()


Call = Callable[[Device, Ioas], object]
REFUSED: dict[str, tuple[Call, type[KernelError], str]] = {
    "taken": (lambda d, s: s.alloc(PAGE, iova=IOVA), AlreadyExists, "0x100000-0x100fff"),
    "reserved": (lambda d, s: s.alloc(PAGE, iova=0xFEE00000), InvalidArgument, "usable is 0x0-0xfedfffff"),
    "beyond": (lambda d, s: s.alloc(PAGE, iova=1 << 60), InvalidArgument, "reserved or beyond the device"),
    "misaligned": (lambda d, s: s.alloc(PAGE, iova=0x1001), InvalidArgument, "iova is 0x1001"),
    "no access": (lambda d, s: s.alloc(PAGE, readable=False), InvalidArgument, "neither read nor write"),
    "no memory": (lambda d, s: s.map_address(PAGE, PAGE), BadAddress, "no memory is mapped at 0x1000"),
    "wraps": (lambda d, s: s.map_address((1 << 64) - PAGE, 2 * PAGE), Overflow, "wraps around"),
    "no file": (lambda d, s: s.map_file(999, PAGE), BadFile, "no such file descriptor"),
    "nothing": (lambda d, s: s.unmap(1 << 32, PAGE), NotFound, "nothing is mapped there"),
    "attached": (lambda d, s: s.close(), Busy, "used by another one"),
    "bound": (lambda d, s: d.bind(s.iommufd), InvalidArgument, "bound already"),
    "vectors": (lambda d, s: d.irqs("msi", 9), InvalidArgument, "has 1 interrupts of index 1"),
    "container": (lambda d, s: s.iommufd.vfio_ioas, NoDevice, "no IOAS stands for a container"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_what_was_wrong(bound: tuple[Device, Ioas], case: str) -> None:
    device, space = bound
    space.alloc(PAGE, iova=IOVA)
    call, kind, reason = REFUSED[case]
    with pytest.raises(kind, match=reason) as refused:
        call(device, space)
    assert refused.value.refusal.culprit is not None


def test_before_bind_a_device_answers_nothing(host: ioas.KernelHost) -> None:
    with host.device(edu_address(host)) as device:
        for use in (device.info, lambda: device.bar(0), lambda: device.irq("msi")):
            with pytest.raises(InvalidArgument, match="not bound yet"):
                use()


def test_who_uses_a_device_is_told_when_it_is_to_go_and_holds_nobody_up(host: ioas.KernelHost) -> None:
    bdf = address(host, IGB)
    found = Path("/sys/bus/pci/devices") / bdf
    with host.device(bdf) as device:
        device.space()
        region = device.bar(0)
        before = region.read32(0)
        with device.irq("req") as asked:
            remover = threading.Thread(target=lambda: (found / "remove").write_text("1"))
            remover.start()
            asked.wait(PATIENCE)
            assert region.read32(0) == before  # until it is let go
            with pytest.raises((UsageError, KernelError)):
                host.device(bdf)
    remover.join(PATIENCE)
    assert not remover.is_alive()
    with pytest.raises(UsageError, match="no PCI device"):
        host.device(bdf)
    Path("/sys/bus/pci/rescan").write_text("1")
    (found / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(bdf)
    assert bdf in host.devices()
