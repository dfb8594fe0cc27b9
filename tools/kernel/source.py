"""The parts of Linux 7.3 that tests need: its uAPI headers and the sources of its selftests.

They come from Debian's packages linux-source-7.3 and linux-libc-dev, into the cache. `IOAS_LINUX` names a
source tree that stands in for the packages: people on other distributions need that.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ioas.errors import EnvironmentRefusal
from tools.kernel import cache
from tools.kernel.apt import PrivateApt

RELEASE = "7.3"
SUITE = "trixie-backports"
INSTEAD = "set IOAS_LINUX to a Linux 7.3 source tree instead"
# What the selftests of iommu and vfio include, relative to the top of the tree.
WANTED = (
    "Makefile",
    "drivers/dma/idxd/registers.h",
    "drivers/dma/ioat/hw.h",
    "drivers/dma/ioat/registers.h",
    "drivers/iommu/iommufd/iommufd_test.h",
    "drivers/net/ethernet/intel/igb/e1000_82575.h",
    "drivers/net/ethernet/intel/igb/e1000_defines.h",
    "drivers/net/ethernet/intel/igb/e1000_regs.h",
    "include/linux/pci_ids.h",
    "tools/arch/x86/include",
    "tools/include",
    "tools/testing/selftests/iommu",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "tools/testing/selftests/vfio",
)
# In the name of the cache entry: an entry of a checkout that wanted other files is not taken for this one.
PARTS = hashlib.sha256(repr(WANTED).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Source:
    """Where the parts are: the top of the tree, the installed headers (for ``-isystem``), the version."""

    tree: Path
    headers: Path
    version: str


def found() -> Source | None:
    """What is here already: `IOAS_LINUX`, or else the newest in the cache. Downloads nothing."""
    if tree := os.environ.get("IOAS_LINUX"):
        return _stand_in(Path(tree))
    kept = sorted(cache.root().glob(f"linux-{RELEASE}.*-{PARTS}"), key=_version_numbers)
    return _cached(kept[-1]) if kept else None


def fetch() -> Source:
    """`found`, or else downloaded and unpacked: about 170 MB over the network, 10 MB kept.

    Raises EnvironmentRefusal with what to do, when this machine cannot.
    """
    if source := found():
        return source
    with cache.exclusive("fetch"):
        return found() or _download()


def _version_numbers(path: Path) -> list[int]:
    return [int(number) for number in path.name.split("-")[1].split(".")]


def _cached(directory: Path) -> Source:
    return Source(directory / "tree", directory / "headers/usr/include", directory.name.split("-")[1])


def package() -> Path:
    """Debian's package of the whole source, from the cache or downloaded into it. Only under the lock "fetch".

    `fetch` leaves it there for who builds the kernel, who then removes it.
    """
    kept = sorted((cache.root() / "packages").glob(f"linux-source-{RELEASE}_*.deb"))
    return kept[-1] if kept else _download_package(_updated_apt())


def forget_package() -> None:
    """Remove what `package` keeps: 170 MB that nobody needs any more."""
    for name in ("packages", "apt"):
        shutil.rmtree(cache.root() / name, ignore_errors=True)


def version_of(package: Path) -> str:
    """The kernel's version in the name of Debian's package."""
    return package.name.split("_")[1].partition("-")[0]


def unpack(package: Path, target: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Unpack what is `wanted` (by its name below the tree's top) of the tar.xz in the package, both as one stream."""
    with _members(package) as outer:
        for member in outer:
            if not member.name.endswith(".tar.xz"):
                continue
            with tarfile.open(fileobj=outer.extractfile(member), mode="r|xz") as inner:
                for entry in inner:
                    _, _, entry.name = entry.name.partition("/")  # below linux-source-7.3/
                    if entry.name and wanted(PurePosixPath(entry.name)):
                        _extract(inner, entry, target)
            return
    raise EnvironmentRefusal(f"{package.name} holds no source archive")


def _updated_apt() -> PrivateApt:
    apt = PrivateApt(cache.root() / "apt", SUITE, INSTEAD)
    apt.update()
    return apt


def _download_package(apt: PrivateApt) -> Path:
    (cache.root() / "packages").mkdir(exist_ok=True)
    arrived = apt.download(apt.newest(f"linux-source-{RELEASE}", f"{RELEASE}."))
    return arrived.rename(cache.root() / "packages" / arrived.name)


def _download() -> Source:
    apt = _updated_apt()
    source = _download_package(apt)
    headers = apt.newest("linux-libc-dev", source.name.split("_")[1])
    target = cache.root() / f"linux-{version_of(source)}-{PARTS}"
    with cache.published(target) as work:
        _unpack_headers(apt.download(headers), work / "headers")
        unpack(source, work / "tree", lambda name: any(name.is_relative_to(wanted) for wanted in WANTED))
    shutil.rmtree(cache.root() / "apt")
    return _cached(target)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Extract safely where Python can (3.11.4; Debian 12 has 3.11.2): the package's digest was checked in any case."""
    if hasattr(tarfile, "data_filter"):
        archive.extract(member, target, filter="data")
    else:
        archive.extract(member, target)


def _unpack_headers(package: Path, target: Path) -> None:
    with _members(package) as archive:
        for member in archive:
            # usr/lib/linux holds what the asm links of usr/include lead to
            if any(PurePosixPath(member.name).is_relative_to(part) for part in ("usr/include", "usr/lib/linux")):
                _extract(archive, member, target)


@contextmanager
def _members(package: Path) -> Iterator[tarfile.TarFile]:
    """The files in a Debian package, as an open stream of tar members."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
        finally:
            process.kill()


def _stand_in(tree: Path) -> Source:
    """The tree of `IOAS_LINUX`, with headers installed beside the cache when the tree has none."""
    version = version_of_tree(tree)
    if (tree / "usr/include/linux/iommufd.h").exists():
        return Source(tree, tree / "usr/include", version)
    return Source(tree, _installed_headers(tree, version), version)


def version_of_tree(tree: Path) -> str:
    """The version of the stand-in `tree`. Raises EnvironmentRefusal when it is no Linux source, or not 7.3."""
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError as error:
        raise EnvironmentRefusal(f"IOAS_LINUX={tree} is no Linux source tree: {error}") from error
    numbers = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", text, re.MULTILINE))
    version = ".".join(numbers.get(key, "?") for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    if not version.startswith(f"{RELEASE}."):
        raise EnvironmentRefusal(f"IOAS_LINUX={tree} is Linux {version}; {RELEASE} is needed")
    return version


def _installed_headers(tree: Path, version: str) -> Path:
    target = cache.root() / f"headers-of-tree-{version}"
    if target.exists():
        return target
    with cache.exclusive("headers"), cache.published(target) as work:
        command = ["make", "-s", "-C", str(tree.resolve()), f"O={work / 'build'}", "ARCH=x86", "headers"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            words = (done.stderr.strip() or "no message").splitlines()[-1]
            raise EnvironmentRefusal(f"`make headers` in IOAS_LINUX={tree} failed: {words}")
        for part in (work / "build/usr/include").iterdir():
            part.rename(work / part.name)
        shutil.rmtree(work / "build")
    return target
