"""Why a device node could not be opened: whether the kernel has it, who may open it, who holds it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable
from errno import EACCES, EBUSY, EMFILE, ENFILE, ENODEV, ENOENT, ENXIO, EPERM
from pathlib import Path
from posixpath import basename

from ioas.errors import CulpritKind, KernelError, refuse
from ioas.kernel.diagnosis.holders import holders
from ioas.sysfs import Sysfs

Finding = tuple[str, CulpritKind, object]
"""A reason, and the culprit's kind and name."""


def why_not_opened(sysfs: Sysfs, path: str, error: OSError) -> KernelError:
    """The exception for an open(2) that failed."""
    number = error.errno or 0
    find = _FINDERS.get(number)
    reason, kind, name = find(sysfs, path) if find is not None else (os.strerror(number), "file", path)
    return refuse(number, f"{path} cannot be opened: {reason}", kind, name)


def _missing(sysfs: Sysfs, path: str) -> Finding:
    if path in _MISC:
        name, config = _MISC[path]
        if _is_misc_device(name):
            return "the kernel has it, but this /dev has no node for it", "file", path
        return f"this kernel has none ({config}), or its module is not loaded", "file", path
    if path.startswith("/dev/vfio/devices/"):
        return _missing_cdev(sysfs, path)
    if Path("/dev/vfio").is_dir() and any(name.isdecimal() for name in os.listdir("/dev/vfio")):
        return "no device of this group is bound to a VFIO driver", "device", f"group {basename(path)}"
    return "this kernel has no VFIO groups (CONFIG_VFIO_GROUP), or none of its devices is bound", "file", path


_MISC = {
    "/dev/iommu": ("iommu", "CONFIG_IOMMUFD"),
    "/dev/vfio/vfio": ("vfio", "CONFIG_VFIO_CONTAINER or CONFIG_IOMMUFD_VFIO_CONTAINER"),
}


def _is_misc_device(name: str) -> bool:
    try:
        lines = Path("/proc/misc").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[1:] == [name] for line in lines)


def _missing_cdev(sysfs: Sysfs, path: str) -> Finding:
    name = basename(path)
    if sysfs.text(f"/sys/class/vfio-dev/{name}/dev") is not None:
        return "the kernel has it, but this /dev has no node for it", "file", path
    if name in sysfs.names("/sys/class/vfio-dev"):
        return "this kernel has no nodes for VFIO devices (CONFIG_VFIO_DEVICE_CDEV)", "file", path
    return "the device is gone, or not bound to a VFIO driver any more", "device", name


def _not_allowed(sysfs: Sysfs, path: str) -> Finding:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{error.filename}: {error.strerror}", "file", path
    mode = stat.S_IMODE(status.st_mode)
    owner, group = _user(status.st_uid), _group(status.st_gid)
    if _may(status):
        return _capability_missing(path)
    able = [f"user {owner}"] if mode & 0o600 == 0o600 else []
    able += [f"members of group {group}"] if mode & 0o060 == 0o060 else []
    who = " and ".join(able) or "nobody but root"
    mine = f"this process is user {_user(os.geteuid())} in {_my_groups()}"
    return f"it is {stat.filemode(status.st_mode)} {owner}:{group}, for {who}; {mine}", "file", path


def _capability_missing(path: str) -> Finding:
    if basename(path).startswith("noiommu-"):
        return "devices without an IOMMU are for CAP_SYS_RAWIO alone", "capability", "CAP_SYS_RAWIO"
    return "the mode would allow it: a security module, or the container's list of devices, does not", "file", path


def _may(status: os.stat_result) -> bool:
    """Whether the mode lets this process read and write."""
    if os.geteuid() == 0 or status.st_uid == os.geteuid():
        return os.geteuid() == 0 or status.st_mode & 0o600 == 0o600
    if status.st_gid in {os.getegid(), *os.getgroups()}:
        return status.st_mode & 0o060 == 0o060
    return status.st_mode & 0o006 == 0o006


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _my_groups() -> str:
    names = sorted({_group(gid) for gid in (os.getegid(), *os.getgroups())})
    return f"group {names[0]}" if len(names) == 1 else f"groups {', '.join(names)}"


def _busy(sysfs: Sysfs, path: str) -> Finding:
    if found := holders(path):
        return f"{found[0]} has it open, and a group can be open once", "file", path
    number = basename(path).removeprefix("noiommu-")
    for bdf in sysfs.group(int(number)).devices if number.isdecimal() else ():
        name = sysfs.device(bdf).vfio_device
        if name is not None and (found := holders(f"/dev/vfio/devices/{name}")):
            return f"{found[0]} has its device {bdf} open by /dev/vfio/devices/{name}", "device", bdf
    return "another program has it or one of its devices open", "file", path


def _gone(sysfs: Sysfs, path: str) -> Finding:
    return "the device is being removed, or is gone", "device", basename(path)


def _no_descriptors(sysfs: Sysfs, path: str) -> Finding:
    return "there is no free file descriptor", "limit", "RLIMIT_NOFILE"


_FINDERS: dict[int, Callable[[Sysfs, str], Finding]] = {
    ENOENT: _missing,
    EACCES: _not_allowed,
    EPERM: _not_allowed,
    EBUSY: _busy,
    ENODEV: _gone,
    ENXIO: _gone,
    EMFILE: _no_descriptors,
    ENFILE: _no_descriptors,
}
