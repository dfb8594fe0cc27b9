"""What inspection finds out about nodes that cannot be opened and calls that are refused (`ioas.kernel.diagnosis`)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

from ioas.errors import AccessDenied, Busy, InvalidArgument, KernelError, NoDevice, NotFound
from ioas.kernel.diagnosis import nodes, why_not_opened, why_refused
from ioas.sysfs import DirectorySource, Sysfs
from ioas.uapi import iommufd, vfio
from ioas.uapi.base import Struct

PAGE = 4096


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    """A machine with the devices vfio0 (with a node) and vfio1 (from a kernel without nodes)."""
    for name in ("vfio0", "vfio1"):
        (tmp_path / "sys/class/vfio-dev" / name).mkdir(parents=True)
    (tmp_path / "sys/class/vfio-dev/vfio0/dev").write_text("248:0\n")
    return Sysfs(DirectorySource(tmp_path))


def opened(sysfs: Sysfs, path: str | Path, number: int) -> KernelError:
    return why_not_opened(sysfs, str(path), OSError(number, os.strerror(number)))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/vfio/devices/vfio0", "this /dev has no node for it"),
        ("/dev/vfio/devices/vfio1", "CONFIG_VFIO_DEVICE_CDEV"),
        ("/dev/vfio/devices/vfio2", "not bound to a VFIO driver any more"),
        ("/dev/vfio/12345", "VFIO"),
    ],
)
def test_a_node_that_is_missing(sysfs: Sysfs, path: str, reason: str) -> None:
    error = opened(sysfs, path, errno.ENOENT)
    assert isinstance(error, NotFound)
    assert reason in str(error)


@pytest.mark.parametrize("known", [True, False])
def test_the_kernel_itself_says_whether_it_has_iommufd(
    sysfs: Sysfs, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "_is_misc_device", lambda name: known)
    assert ("no node" if known else "CONFIG_IOMMUFD") in str(opened(sysfs, "/dev/iommu", errno.ENOENT))


@pytest.mark.parametrize(("mode", "who"), [(0o600, "user root;"), (0o660, "user root and members of group root;"),
                                           (0o000, "nobody but root;")])  # fmt: skip
def test_a_node_that_is_not_allowed_says_for_whom_it_is(
    sysfs: Sysfs, tmp_path: Path, mode: int, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "node"
    node.touch()
    node.chmod(mode)
    owner = os.stat(node)
    for name, value in (("geteuid", owner.st_uid + 1), ("getegid", owner.st_gid + 1), ("getgroups", [])):
        monkeypatch.setattr(os, name, lambda value=value: value)
    error = opened(sysfs, node, errno.EACCES)
    assert isinstance(error, AccessDenied)
    assert who.replace("root", _owner(owner.st_uid)) in str(error) or owner.st_uid
    assert "this process is user" in str(error)


def _owner(uid: int) -> str:
    return "root" if uid == 0 else str(uid)


def test_a_node_that_the_mode_allows_blames_something_else(sysfs: Sysfs, tmp_path: Path) -> None:
    node = tmp_path / "noiommu-vfio0"
    node.touch(0o666)
    assert "CAP_SYS_RAWIO" in str(opened(sysfs, node, errno.EPERM))
    other = tmp_path / "vfio0"
    other.touch(0o666)
    assert "security module" in str(opened(sysfs, other, errno.EACCES))


def test_the_program_that_holds_a_node_is_named(sysfs: Sysfs, tmp_path: Path) -> None:
    path = tmp_path / "7"
    with path.open("w"):
        error = opened(sysfs, path, errno.EBUSY)
    assert isinstance(error, Busy)
    assert "this process has it open" in str(error)
    assert "another program" in str(opened(sysfs, path, errno.EBUSY))


def test_a_device_that_goes_and_errors_that_nothing_is_known_of(sysfs: Sysfs) -> None:
    assert isinstance(opened(sysfs, "/dev/vfio/devices/vfio0", errno.ENODEV), NoDevice)
    assert "Stale" in str(opened(sysfs, "/dev/iommu", errno.ESTALE))


def refused(request: int, number: int, command: Struct | int, path: str = "/dev/iommu") -> KernelError:
    """On a file that answers no question about ranges."""
    with open("/dev/null") as file:
        return why_refused(file.fileno(), path, request, command, OSError(number, os.strerror(number)))


def mapping(**fields: int) -> iommufd.iommu_ioas_map:
    memory = {"user_va": PAGE, "length": PAGE, "flags": 7, "iova": 0x100000}
    return iommufd.iommu_ioas_map(size=40, ioas_id=1, **memory | fields)


@pytest.mark.parametrize(
    ("number", "fields", "reason"),
    [
        (errno.EINVAL, {"length": 0}, "length is 0"),
        (errno.EINVAL, {"flags": 1}, "neither read nor write"),
        (errno.EINVAL, {"iova": 0x1234}, "iova is 0x1234, which is not a multiple of 0x1000"),
        (errno.EINVAL, {"length": 5}, "length is 0x5"),
        (errno.EINVAL, {}, "IOVA 0x100000-0x100fff is reserved"),
        (errno.EINVAL, {"flags": 6}, "Invalid argument"),
        (errno.EEXIST, {}, "area 0x100000-0x100fff"),
        (errno.EFAULT, {}, "no memory is mapped at 0x1000"),
        (errno.ENOSPC, {"length": 1 << 40}, "no 0x10000000000 bytes of IOVA"),
        (errno.EOVERFLOW, {}, "wraps around"),
        (errno.ENOENT, {}, "no such IOAS"),
        (errno.EIO, {}, "IOMMU_IOAS_MAP: Input/output error"),
    ],
)
def test_a_refused_mapping_is_explained_by_its_arguments(number: int, fields: dict[str, int], reason: str) -> None:
    error = refused(iommufd.IOMMU_IOAS_MAP, number, mapping(**fields))
    assert error.errno == number
    assert reason in str(error)


def test_memory_that_may_not_be_written_is_told_from_memory_that_is_not_there() -> None:
    memory = mmap.mmap(-1, PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), mmap.PROT_READ)
    error = refused(iommufd.IOMMU_IOAS_MAP, errno.EFAULT, mapping(user_va=address))
    assert f"{address:#x} cannot be written" in str(error)
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), mmap.PROT_READ | mmap.PROT_WRITE)


def test_the_limit_of_locked_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (65536, 65536))
    error = refused(iommufd.IOMMU_IOAS_MAP, errno.ENOMEM, mapping())
    assert "limit of 0x10000 bytes (limit RLIMIT_MEMLOCK)" in str(error)


@pytest.mark.parametrize("argument", [0, 1 << 40])
def test_calls_whose_structure_is_out_of_sight_are_explained_by_their_name(argument: int) -> None:
    assert "length is 0" in str(refused(iommufd.IOMMU_IOAS_MAP, errno.EINVAL, argument))
    assert "no such descriptor" not in str(refused(0x3BFF, errno.ENOTTY, argument))
    assert "request 0x3bff" in str(refused(0x3BFF, errno.ENOTTY, argument))


def test_a_container_s_mapping_is_explained_as_an_ioas_s_is() -> None:
    command = vfio.vfio_iommu_type1_dma_map(argsz=32, flags=3, vaddr=PAGE, iova=5, size=PAGE)
    error = refused(vfio.VFIO_IOMMU_MAP_DMA, errno.EINVAL, command, "/dev/vfio/vfio")
    assert isinstance(error, InvalidArgument)
    assert "iova is 0x5" in str(error)
