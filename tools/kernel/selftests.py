"""Builds the kernel's selftests of iommufd and VFIO, in the cache and never in the repository.

The commands are those of the kernel's own Makefiles (tools/testing/selftests/{iommu,vfio}), reduced to
what these programs need.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ioas.errors import EnvironmentRefusal
from tools.kernel import cache
from tools.kernel.source import Source

FLAGS = ("-O2", "-w", "-D_GNU_SOURCE=", "-pthread")


@dataclass(frozen=True)
class Program:
    """How to build one: its directory below selftests, its sources (globs), include paths, libraries, package."""

    directory: str
    sources: tuple[str, ...]
    includes: tuple[str, ...]
    library: str
    package: str


def _iommu(name: str) -> Program:
    return Program("iommu", (f"{name}.c",), ("..",), "cap", "libcap-dev")


def _vfio(name: str) -> Program:
    sources = (f"{name}.c", "lib/*.c", "lib/drivers/*/*.c")
    return Program("vfio", sources, ("..", "../../../include", "lib/include"), "uuid", "uuid-dev")


PROGRAMS = {
    "iommufd": _iommu("iommufd"),
    "iommufd_fail_nth": _iommu("iommufd_fail_nth"),
    "vfio_dma_mapping_mmio_test": _vfio("vfio_dma_mapping_mmio_test"),
    "vfio_dma_mapping_test": _vfio("vfio_dma_mapping_test"),
    "vfio_iommufd_setup_test": _vfio("vfio_iommufd_setup_test"),
    "vfio_pci_device_init_perf_test": _vfio("vfio_pci_device_init_perf_test"),
    "vfio_pci_device_test": _vfio("vfio_pci_device_test"),
    "vfio_pci_driver_test": _vfio("vfio_pci_driver_test"),
    "vfio_pci_sriov_uapi_test": _vfio("vfio_pci_sriov_uapi_test"),
}


def build(source: Source, name: str) -> Path:
    """The path of test program `name`, built unless it is in the cache already.

    Raises EnvironmentRefusal when there is no compiler or a library is missing: the message names the package.
    """
    target = cache.root() / "selftests" / f"{source.version}-{_fingerprint(source)}" / name
    if not target.exists():
        with cache.exclusive("build"):
            if not target.exists():
                _compile(source, PROGRAMS[name], target)
    return target


def _fingerprint(source: Source) -> str:
    """Tells one tree and set of flags from another, so that a stand-in tree does not get another's programs."""
    return hashlib.sha256(repr((source.tree.resolve(), FLAGS, PROGRAMS)).encode()).hexdigest()[:12]


def _compile(source: Source, program: Program, target: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise EnvironmentRefusal("building the kernel's selftests needs a C compiler: install gcc and libc6-dev")
    directory = source.tree / "tools/testing/selftests" / program.directory
    sources = [str(path) for pattern in program.sources for path in sorted(directory.glob(pattern))]
    headers = [path for path in (source.headers, source.headers / "x86_64-linux-gnu") if path.exists()]
    options = [word for path in headers for word in ("-isystem", str(path))]
    options += [f"-I{directory / include}" for include in program.includes]
    with cache.published(target.parent / f"{target.name}.build") as work:
        command = [compiler, *FLAGS, *options, *sources, f"-l{program.library}", "-o", str(work / target.name)]
        _run_compiler(command, program)
        (work / target.name).rename(target)
    shutil.rmtree(target.parent / f"{target.name}.build", ignore_errors=True)


def _run_compiler(command: Sequence[str], program: Program) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip() or "no message").splitlines()
        first = next((line for line in words if "error" in line or "cannot find" in line), words[-1])
        raise EnvironmentRefusal(
            f"{program.directory} selftests do not compile ({first}); "
            f"they need gcc, libc6-dev and {program.package}: install them, for example with apt-get"
        )
