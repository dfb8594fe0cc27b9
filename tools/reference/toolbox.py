"""The programs that the guest needs, beside Python: QEMU with an igb device, and what Linux is built with.

And those that look at PCI devices, for tests of unmodified programs.

What is installed is taken. What is not is fetched on Debian, without root: the packages are unpacked into the cache
and run from there. A compiler is too much of a system for that and has to be installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ioas.errors import EnvironmentRefusal
from tools.kernel import apt, cache

Say = Callable[[str], None]
QEMU = "qemu-system-x86_64"
MODELS = ("edu", "igb", "intel-iommu", "nvme", "virtio-9p-pci", "virtserialport")
# Debian 12 has QEMU 7.2, which has no igb.
BACKPORTS = {"bookworm": "bookworm-backports"}
COMPILER = {"cc": "gcc", "ld": "binutils", "make": "make"}
BUILD = {"flex": "flex", "bison": "bison", "bc": "bc", "m4": "m4"}
PCI_TOOLS = {"lspci": "pciutils", "setpci": "pciutils", "dpdk-devbind.py": "dpdk", "ip": "iproute2"}
LIBELF, LIBELF_PACKAGE = "/usr/include/gelf.h", "libelf-dev"
FIRMWARE = ("usr/share/qemu", "usr/share/seabios")
PROGRAMS = ("usr/bin", "bin")
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


def qemu(say: Say) -> tuple[str, ...]:
    """The words that start QEMU. Raises EnvironmentRefusal when there is none with the devices and none to fetch."""
    if platform.machine() != "x86_64":
        raise EnvironmentRefusal(
            f"the guest is x86-64 and runs this machine's programs, which are {platform.machine()}"
        )
    installed = shutil.which(QEMU)
    if installed and _has_models((installed,)):
        return (installed,)
    box = _box(["qemu-system-x86"], BACKPORTS.get(_release()), "install QEMU 8.0 or later with its igb device", say)
    firmware = [word for top in (box, Path("/")) for part in FIRMWARE for word in ("-L", str(top / part))]
    words = ("env", f"LD_LIBRARY_PATH={_libraries(box)}", str(box / "usr/bin" / QEMU), *firmware)
    if not _has_models(words):
        raise EnvironmentRefusal(f"the QEMU unpacked in {box} does not run; install QEMU 8.0 or later")
    return words


def for_kernel(say: Say) -> dict[str, str]:
    """The environment in which make finds what Linux is built with.

    Raises EnvironmentRefusal naming the packages where they are neither installed nor to be fetched.
    """
    if lacking := [package for program, package in COMPILER.items() if not shutil.which(program)]:
        raise EnvironmentRefusal(f"building Linux needs {', '.join(lacking)} and libc6-dev: install them with apt-get")
    missing = [package for program, package in BUILD.items() if not shutil.which(program)]
    missing += [] if Path(LIBELF).exists() else [LIBELF_PACKAGE]
    if not missing:
        return dict(os.environ)
    box = _box(missing, None, f"install {', '.join(missing)}", say)
    added = {"PATH": f"{box / 'usr/bin'}:{os.environ.get('PATH', os.defpath)}"}
    if "m4" in missing:
        added["M4"] = str(box / "usr/bin/m4")
    if "bison" in missing:
        added["BISON_PKGDATADIR"] = str(box / "usr/share/bison")
    search = {"LD_LIBRARY_PATH": _libraries(box), "LIBRARY_PATH": _libraries(box), "CPATH": str(box / "usr/include")}
    return {**os.environ, **added, **search}


def pci_tools(say: Say) -> dict[str, str]:
    """The environment in which lspci, setpci and dpdk-devbind.py are found.

    Raises EnvironmentRefusal naming the packages where they are neither installed nor to be fetched.
    """
    missing = sorted({package for program, package in PCI_TOOLS.items() if not shutil.which(program)})
    if not missing:
        return dict(os.environ)
    box = _box(missing, None, f"install {', '.join(missing)}", say)
    path = os.pathsep.join([*(str(box / place) for place in PROGRAMS), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": _libraries(box)}


def _has_models(command: Sequence[str]) -> bool:
    words = [*command, "-device", "help"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode == 0 and all(f'name "{model}"' in done.stdout for model in MODELS)


def _release() -> str:
    try:
        return apt.release()
    except EnvironmentRefusal:
        return ""  # the attempt to fetch says more


def _libraries(box: Path) -> str:
    return ":".join(str(box / directory) for directory in LIBRARIES)


def _box(packages: Sequence[str], suite: str | None, instead: str, say: Say) -> Path:
    """The directory in the cache where `packages` are unpacked, with what they need that is not installed."""
    name = hashlib.sha256(repr((packages, suite, _release())).encode()).hexdigest()[:8]
    box = cache.root() / "tools" / name
    if not box.exists():
        with cache.exclusive("tools"):
            if not box.exists():
                say(f"fetching {', '.join(packages)}, which is not installed here, into the cache")
                _fill(box, packages, suite, instead)
    return box


def _fill(box: Path, packages: Sequence[str], suite: str | None, instead: str) -> None:
    private = cache.root() / f"apt-{box.name}"
    fetcher = apt.PrivateApt(private, suite, instead, own=True)
    fetcher.update()
    with cache.published(box) as work:
        for package in fetcher.missing(packages):
            subprocess.run(["dpkg-deb", "-x", package, work], check=True, stdin=subprocess.DEVNULL, capture_output=True)
        _mend_links(work)
    shutil.rmtree(private)


def _mend_links(box: Path) -> None:
    """Lead the links of unpacked development packages to the libraries that are installed."""
    for directory in LIBRARIES:
        for link in (box / directory).glob("*.so"):
            installed = Path("/", directory, os.readlink(link)) if link.is_symlink() else link
            if not link.exists() and installed.exists():
                link.unlink()
                link.symlink_to(installed)
