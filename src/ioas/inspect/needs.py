"""What this machine needs a PCI function for: file systems that are mounted from it, the interface of its route."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ioas.inspect.machine import Machine


def needed_for(machine: Machine, bdf: str) -> Sequence[str]:
    """Sentences such as "/dev/sda2 is mounted on /" and "the default route goes through eth0"; empty: not needed."""
    return [*_mounts(machine, bdf), *_routes(machine, bdf)]


def _mounts(machine: Machine, bdf: str) -> Iterator[str]:
    for line in (machine.text("/proc/mounts") or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0].startswith("/dev/"):
            name = words[0].removeprefix("/dev/")
            if any(_stands_on(machine, f"/sys/class/block/{part}", bdf) for part in _parts(machine, name)):
                yield f"{words[0]} is mounted on {words[1]}"


def _parts(machine: Machine, name: str) -> Iterator[str]:
    """A block device and what it consists of: a mapped one (dm-0) of slaves."""
    target = machine.sysfs.link(f"/dev/{name}")
    name = (target or name).rpartition("/")[2]
    yield name
    for slave in machine.sysfs.names(f"/sys/class/block/{name}/slaves"):
        yield from _parts(machine, slave)


def _routes(machine: Machine, bdf: str) -> Iterator[str]:
    for line in (machine.text("/proc/net/route") or "").splitlines()[1:]:
        words = line.split()
        if len(words) > 1 and words[1] == "00000000" and _stands_on(machine, f"/sys/class/net/{words[0]}", bdf):
            yield f"the default route goes through {words[0]}"


def _stands_on(machine: Machine, path: str, bdf: str) -> bool:
    """Whether a class device belongs to a PCI function: its link leads below the function's directory."""
    return bdf in (machine.sysfs.link(path) or "").split("/")
