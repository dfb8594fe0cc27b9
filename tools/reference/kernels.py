"""Builds and keeps the guest's kernels: Linux 7.3 from Debian's source package, or from the tree of `IOAS_LINUX`.

Every finished kernel is an entry of the cache named by its version and the fingerprint of its options. The directory
that they are built in stays until all are there, so an interrupted build goes on where it was; the second kernel
shares the first one's object files.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from ioas.errors import EnvironmentRefusal
from tools.kernel import cache, source
from tools.reference import config, toolbox

Say = Callable[[str], None]
SAY_SECONDS = 15.0
TAIL_LINES = 20
# What this kernel needs nothing of but the files that steer the build: most of the tree.
LEFT_OUT = (
    "Documentation", "drivers/gpu", "drivers/media", "drivers/net/ethernet", "drivers/net/wireless", "drivers/staging",
    "rust", "sound", "tools/perf", "tools/testing",
)  # fmt: skip


def found(kernel: str) -> Path | None:
    """The bzImage of `kernel` that is in the cache, the newest of several; builds nothing."""
    if tree := os.environ.get("IOAS_LINUX"):
        entry = _entry(kernel, source.version_of_tree(Path(tree)))
        return entry / "bzImage" if entry.exists() else None
    entries = _home().glob(f"linux-{source.RELEASE}.*-{_key()}-{kernel}")
    newest = max(entries, key=lambda entry: int(entry.name.split("-")[1].split(".")[2]), default=None)
    return newest / "bzImage" if newest else None


def get(kernel: str, say: Say) -> Path:
    """The bzImage of `kernel`, all of them built when it is missing."""
    return found(kernel) or build(say)[kernel]


def build(say: Say, *, again: bool = False) -> dict[str, Path]:
    """The bzImages of all kernels, those that are missing built, or all with `again`: for a tree that changed.

    Takes some minutes and 1.5 GB of disk meanwhile. Raises EnvironmentRefusal with what to do when this machine cannot.
    """
    with cache.exclusive("reference"):
        have = {kernel: path for kernel in config.kernels() if (path := found(kernel))}
        if again or len(have) < len(config.kernels()):
            return _build(say, again=again)
        return have


def _build(say: Say, *, again: bool) -> dict[str, Path]:
    environment = toolbox.for_kernel(say)
    tree, version = _tree(say)
    work = _work(version)
    for kernel in config.kernels():
        target = _entry(kernel, version)
        if again or not target.exists():
            _configure(tree, work, kernel, environment)
            say(f"kernel {kernel!r}: Linux {version}, compiling on {_processors()} processors")
            _compile(tree, work, environment, say)
            with cache.published(target) as entry:
                shutil.copy(work / "arch/x86/boot/bzImage", entry / "bzImage")
                shutil.copy(work / ".config", entry / "config")
    if "IOAS_LINUX" not in os.environ:
        for unpacked in _home().glob("work-*/tree"):  # older options' too, whose builds were never finished
            shutil.rmtree(unpacked.parent)
        source.forget_package()
    return {kernel: _entry(kernel, version) / "bzImage" for kernel in config.kernels()}


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _home() -> Path:
    return cache.root() / "reference"


def _key() -> str:
    """What tells entries of one version apart: the options, and which tree stands in."""
    tree = os.environ.get("IOAS_LINUX")
    place = "-" + hashlib.sha256(str(Path(tree).resolve()).encode()).hexdigest()[:8] if tree else ""
    return f"{config.fingerprint()}{place}"


def _entry(kernel: str, version: str) -> Path:
    return _home() / f"linux-{version}-{_key()}-{kernel}"


def _work(version: str) -> Path:
    return _home() / f"work-{version}-{_key()}" / "objects"


def _tree(say: Say) -> tuple[Path, str]:
    """The source tree and its version: the stand-in, or the package unpacked where the kernels are built."""
    if stand_in := os.environ.get("IOAS_LINUX"):
        return Path(stand_in).resolve(), source.version_of_tree(Path(stand_in))
    with cache.exclusive("fetch"):
        say("Linux's source: looking for Debian's package in the cache, or else downloading it (170 MB)")
        package = source.package()
    version = source.version_of(package)
    tree = _work(version).parent / "tree"
    if not tree.exists():
        say(f"unpacking Linux {version}")
        _unpack(package, tree)
    return tree, version


def _unpack(package: Path, tree: Path) -> None:
    try:
        with cache.published(tree) as work:
            source.unpack(package, work, _needed)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        source.forget_package()
        raise EnvironmentRefusal(f"{package} was damaged ({error}) and is removed; run the command again") from error


def _needed(name: PurePosixPath) -> bool:
    if name.name.startswith(("Kconfig", "Makefile", "Kbuild")):
        return True
    if name.parts[0] == "arch":
        return len(name.parts) < 3 or name.parts[1] == "x86"
    return not any(name.is_relative_to(part) for part in LEFT_OUT)


def _make(tree: Path, work: Path, *words: str) -> list[str]:
    return ["make", "-C", str(tree), f"O={work}", "ARCH=x86", *words]


def _configure(tree: Path, work: Path, kernel: str, environment: Mapping[str, str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    options = work.parent / "options"
    options.write_text(config.fragment(kernel))
    done = subprocess.run(
        _make(tree, work, "-s", f"KCONFIG_ALLCONFIG={options}", "allnoconfig"),
        env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode:
        raise EnvironmentRefusal(_failure("configure", done.stdout.splitlines(), tree))
    config.check(kernel, (work / ".config").read_text())


def _compile(tree: Path, work: Path, environment: Mapping[str, str], say: Say) -> None:
    """Run make to the end of bzImage, telling every now and then how many files are done."""
    command = _make(tree, work, f"-j{_processors()}", "bzImage", "KCFLAGS=-w")
    began = told = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if time.monotonic() - told > SAY_SECONDS:
                told = time.monotonic()
                say(f"{_compiled(lines)} files compiled after {told - began:.0f} s")
    if process.returncode:
        raise EnvironmentRefusal(_failure("build", lines, tree))
    say(f"done: {_compiled(lines)} files compiled in {time.monotonic() - began:.0f} s")


def _compiled(lines: list[str]) -> int:
    return sum(line.startswith(("  CC ", "  AS ")) for line in lines)


def _failure(what: str, lines: list[str], tree: Path) -> str:
    """What make said, with a word on what a user can do about it."""
    first = next((number for number, line in enumerate(lines) if "***" in line or "rror:" in line), len(lines))
    shown = lines[max(0, first - TAIL_LINES // 2) :][:TAIL_LINES]  # what else runs in parallel goes on for a while
    said = "\n".join(f"  {line}" for line in shown)
    if any("source tree is not clean" in line for line in lines):
        return f"IOAS_LINUX={tree} was built in place; `make mrproper` there, or give a clean copy"
    return f"Linux does not {what}; make said:\n{said}"
