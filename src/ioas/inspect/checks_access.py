"""Checks of what the program needs besides: memory, device nodes, and that nobody else has the device."""

from __future__ import annotations

from ioas.host import Capability
from ioas.inspect.case import Case, Finding, size
from ioas.inspect.machine import Node

_HUGE = "/sys/kernel/mm/hugepages"
_UNSAFE = "enable_unsafe_noiommu_mode"
_MODEST = 64 << 20
"""A limit of locked memory below which hardly any program for DMA gets along."""


def memlock(case: Case) -> Finding | None:
    """May the user pin as much memory as is wanted?"""
    user, wanted = case.machine.user, case.wanted.memory
    if user.memlock is None or Capability.IPC_LOCK in user.capabilities:
        return Finding("ok", "memory may be pinned without limit")
    if user.memlock >= (wanted if wanted is not None else _MODEST):
        return Finding("ok", f"up to {size(user.memlock)} may be pinned")
    need = f"{size(wanted)} are wanted" if wanted is not None else "hardly enough for anything"
    return Finding(
        "warning" if wanted is None else "no",
        f"only {size(user.memlock)} may be pinned: {need}",
        "limit RLIMIT_MEMLOCK",
        "raise it: LimitMEMLOCK= in a systemd unit, or memlock in /etc/security/limits.conf",
        check="ulimit -l",
    )


def hugepages(case: Case) -> Finding | None:
    """Are there as many huge pages free as wanted?"""
    wanted = case.wanted.hugepages
    if wanted is None:
        return None
    free = {pool: _free_bytes(case, pool) for pool in case.machine.sysfs.names(_HUGE)}
    if sum(free.values()) >= wanted:
        return Finding("ok", f"{size(sum(free.values()))} of huge pages are free")
    pool = "hugepages-2048kB"
    pages = -(-wanted // (2 << 20))
    return Finding(
        "no",
        f"{size(wanted)} of huge pages are wanted, and {size(sum(free.values()))} are free",
        f"file {_HUGE}/{pool}/nr_hugepages",
        "reserve them, best when the machine starts (hugepages=N)",
        (f"echo {pages} > {_HUGE}/{pool}/nr_hugepages",),
        f"cat {_HUGE}/{pool}/free_hugepages",
    )


def _free_bytes(case: Case, pool: str) -> int:
    count = case.machine.text(f"{_HUGE}/{pool}/free_hugepages") or ""
    try:
        return int(count) * int(pool.removeprefix("hugepages-").removesuffix("kB")) * 1024
    except ValueError:  # not what a kernel says
        return 0


def node_paths(case: Case) -> dict[str, tuple[str, ...]]:
    """The nodes that each way to the device needs: its own with /dev/iommu, or its group's with /dev/vfio/vfio."""
    ways: dict[str, tuple[str, ...]] = {}
    if case.function.vfio is not None:
        ways["cdev"] = (f"/dev/vfio/devices/{case.function.vfio}", "/dev/iommu")
    if case.function.group is not None:
        prefix = "noiommu-" if case.is_noiommu else ""
        ways["group"] = (f"/dev/vfio/{prefix}{case.function.group}", "/dev/vfio/vfio")
    return ways


def usable_way(case: Case) -> str | None:
    """The first way all of whose nodes the user may open: "cdev" or "group"."""
    for way, paths in node_paths(case).items():
        nodes = [case.machine.nodes(path) for path in paths]
        if all(node is not None and case.machine.user.may_use(node) for node in nodes):
            return way
    return None


def nodes(case: Case) -> Finding | None:
    """May the user open the device's nodes?"""
    ways = node_paths(case)
    if not case.bound or not ways:
        return None
    if (way := usable_way(case)) is not None:
        return Finding("ok", f"{' and '.join(ways[way])} may be opened")
    paths = [path for way in ways.values() for path in way]
    for path in paths:
        node = case.machine.nodes(path)
        if node is not None and not case.machine.user.may_use(node):
            return _forbidden(case, path, node)
    return Finding(
        "no",
        "there is no node to open it by",
        f"file {paths[0]}",
        "a container needs the nodes of /dev given to it; otherwise see whether udev runs",
        check=f"ls -l {paths[0]}",
    )


def _forbidden(case: Case, path: str, node: Node) -> Finding:
    listed = ", with an access control list," if node.acl else ""
    return Finding(
        "no",
        f"{path} has mode {node.mode:o}{listed} and belongs to user {node.uid}: this user may not open it",
        f"file {path}",
        "give it to the user; a udev rule for SUBSYSTEM vfio makes that last",
        (f"chown {case.machine.user.uid} {path}",),
        f"getfacl {path}" if node.acl else f"ls -l {path}",
    )


def holders(case: Case) -> Finding | None:
    """Has another program opened it? There can be one user."""
    if not case.bound:
        return None
    for paths in node_paths(case).values():
        if found := case.machine.holders(paths[0]):
            return Finding(
                "no",
                f"it is in use by {', '.join(found)}",
                f"program {found[0]}",
                "end that program first",
                check=f"fuser -v {paths[0]}",
            )
    return Finding("ok", "nobody whom this user can see has it open")


def noiommu(case: Case) -> Finding | None:
    """Is no-IOMMU mode possible, and allowed?"""
    if case.purpose != "noiommu":
        return None
    if case.group is not None:
        return Finding(
            "no",
            "an IOMMU is in front of it, and VFIO does not go without one that is there",
            f"group {case.group.number}",
            "use the IOMMU: ioas doctor --for driver",
            check=f"ls -l {case.path}/iommu_group",
        )
    allowed = case.machine.parameter("vfio", _UNSAFE)
    if allowed is None:
        return Finding(
            "no",
            "this kernel has no no-IOMMU mode, or vfio is not loaded",
            "kernel option CONFIG_VFIO_NOIOMMU",
            "load vfio, or use a kernel that has the option",
            ("modprobe vfio",),
            f"ls /sys/module/vfio/parameters/{_UNSAFE}",
        )
    if allowed != "Y":
        return Finding(
            "no",
            "no-IOMMU mode is turned off",
            f"setting vfio.{_UNSAFE}",
            "turn it on, then bind the device; it taints the kernel, and nothing stops the device's DMA",
            (f"echo Y > /sys/module/vfio/parameters/{_UNSAFE}",),
            f"cat /sys/module/vfio/parameters/{_UNSAFE}",
        )
    if Capability.SYS_RAWIO not in case.machine.user.capabilities:
        return Finding(
            "no",
            "no-IOMMU mode asks for a privilege that this user lacks",
            "capability CAP_SYS_RAWIO",
            "run the program as root, or give it the capability",
            check="grep CapEff /proc/self/status",
        )
    return Finding("warning", "no-IOMMU mode is on: nothing stops what the device's DMA may hit")
