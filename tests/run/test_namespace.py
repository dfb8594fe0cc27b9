"""A mount namespace of the program's own: the kernel itself walks the machine's /dev and /sys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.run.conftest import NOBODY, Runner

BDF = "/sys/bus/pci/devices/0000:01:00.0"
STATIC = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
/* Lists directories by raw calls, as programs without a C library do. */
int main(int argc, char **argv)
{
	static char buffer[65536];
	for (int i = 1; i < argc; i++) {
		int fd = syscall(SYS_openat, AT_FDCWD, argv[i], O_RDONLY | O_DIRECTORY);
		long n;
		if (fd < 0)
			return 1;
		while ((n = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0)
			for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16))
				printf("%s/%s\n", argv[i], buffer + at + 19);
		close(fd);
	}
}
"""


@pytest.fixture(params=["as is", "nobody"])
def run(request: pytest.FixtureRequest, require: Callable[[str, str], NoReturn]) -> Runner:
    """Runs programs as both, where a namespace is allowed."""
    if request.param == "nobody" and os.getuid() != 0:
        pytest.skip("the tests are run without privileges anyhow")
    runner: Runner = request.getfixturevalue("run_as_nobody") if request.param == "nobody" else Runner()
    needed = ["unshare", "-m"] if os.getuid() == 0 and request.param == "as is" else ["unshare", "-Um"]
    prefix = NOBODY if request.param == "nobody" else ()
    if subprocess.run([*prefix, *needed, "true"], check=False, capture_output=True).returncode:
        require("namespace", "a mount namespace is not allowed here")
    return runner


@pytest.fixture(scope="module")
def static(open_directory: Path, require: Callable[[str, str], NoReturn]) -> str:
    """A statically linked program that lists directories."""
    if shutil.which("cc") is None:
        require("cc", "no C compiler")
    (open_directory / "list.c").write_text(STATIC)
    built = [str(open_directory / "list.c"), "-o", str(open_directory / "list")]
    if subprocess.run(["cc", "-static", *built], check=False, capture_output=True).returncode:
        require("cc", "no static C library")
    return str(open_directory / "list")


def passes(run: Runner, source: str) -> None:
    done = run.python("import os, stat, errno\n" + source)
    assert (done.stderr, done.returncode) == ("", 0)


def listed(run: Runner, program: str, *directories: str, options: list[str] | None = None) -> set[str]:
    done = run(program, *directories, options=options or [])
    assert (done.stderr, done.returncode) == ("", 0)
    return {name for name in done.stdout.split() if not name.endswith(("/.", "/.."))}


def test_a_static_program_lists_the_machines_devices_and_no_real_ones(run: Runner, static: str) -> None:
    shown = listed(run, static, "/dev/vfio", "/sys/bus/pci/devices", "/sys/class/vfio-dev", "/sys/class/iommu")
    assert {"/dev/vfio/devices", "/dev/vfio/vfio", "/sys/class/vfio-dev/vfio0", "/sys/class/iommu/dmar0"} <= shown
    pci = {os.path.basename(name) for name in shown if name.startswith("/sys/bus/pci/devices/")}
    assert pci == {"0000:00:00.0", "0000:00:01.0", "0000:01:00.0"}


def test_what_is_not_the_machines_stays_beside_it(run: Runner, static: str) -> None:
    shown = listed(run, static, "/dev", "/sys", "/sys/class", "/sys/bus", "/sys/devices")
    assert {"/dev/iommu", "/dev/vfio", "/sys/devices/pci0000:00", "/sys/bus/pci", "/sys/class/vfio-dev"} <= shown
    real = {f"{directory}/{name}" for directory in ("/dev", "/sys", "/sys/class") for name in os.listdir(directory)}
    assert real <= shown
    passes(
        run,
        """
with open("/dev/null", "r+b", buffering=0) as null, open("/dev/zero", "rb") as zero:
    assert null.write(zero.read(16)) == 16 and os.fstat(null.fileno()).st_rdev == os.makedev(1, 3)
assert os.path.isdir("/dev/shm") and os.path.isdir("/dev/pts") and os.readlink("/dev/fd") == "/proc/self/fd"
assert os.listdir("/sys/kernel/mm") and open("/sys/devices/system/cpu/online").read().strip()
""",
    )


def test_the_tree_can_be_entered(run: Runner) -> None:
    passes(
        run,
        f"""
os.chdir({BDF!r})
assert os.getcwd() == "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
assert open("vendor").read() == "0x1234\\n" == open("../0000:01:00.0/vendor").read()
assert os.readlink("driver").endswith("/vfio-pci")
group = os.path.basename(os.readlink("iommu_group"))
os.chdir("driver")
assert os.getcwd() == "/sys/bus/pci/drivers/vfio-pci" and os.path.exists("0000:01:00.0/config")
os.chdir("/dev/vfio/devices")
assert stat.S_ISCHR(os.stat("vfio0").st_mode)
os.close(os.open("vfio0", os.O_RDWR))
os.chdir("..")
assert sorted(os.listdir(".")) == [group, "devices", "vfio"]
assert os.path.samefile("/dev/vfio/..", "/dev")
""",
    )


def test_a_walk_by_descriptors_finds_the_same_as_a_walk_by_path(run: Runner) -> None:
    passes(
        run,
        """
for top in ("/sys/bus/pci", "/sys/devices/pci0000:00", "/dev/vfio", "/sys/kernel/iommu_groups"):
    by_path = sorted((where, sorted(names), sorted(files)) for where, names, files in os.walk(top))
    by_fd = sorted((where, sorted(names), sorted(files)) for where, names, files, _ in os.fwalk(top))
    assert by_path == by_fd, top
""",
    )


def test_nobody_else_sees_it(run: Runner) -> None:
    before = Path("/proc/self/mountinfo").read_text(), os.path.exists("/dev/iommu")
    done = run.python("import os; print(os.path.exists('/dev/iommu'), os.readlink('/proc/self/ns/mnt'))")
    assert done.stdout.startswith("True mnt:")
    assert os.readlink("/proc/self/ns/mnt") not in done.stdout
    assert (Path("/proc/self/mountinfo").read_text(), os.path.exists("/dev/iommu")) == before


def test_without_a_namespace_the_program_stays_in_ours(run: Runner) -> None:
    done = run.python("import os; print(os.readlink('/proc/self/ns/mnt'))", options=["--no-namespace"])
    assert done.stdout.strip() == os.readlink("/proc/self/ns/mnt")


def test_the_user_remains_the_same(run: Runner) -> None:
    source = "import os; print(os.getresuid(), os.getresgid())"
    inside, outside = (run.python(source, options=options).stdout for options in ([], ["--no-namespace"]))
    assert inside == outside != ""


def test_real_devices_are_shown_beside_the_machines_on_demand(run: Runner, static: str) -> None:
    shown = listed(run, static, "/sys/bus/pci/devices", "/dev/vfio", "/sys/bus/pci/drivers", options=["--with-real"])
    assert {"/sys/bus/pci/devices/0000:01:00.0", "/dev/vfio/devices", "/sys/bus/pci/drivers/vfio-pci"} <= shown
    for directory in ("/sys/bus/pci/devices", "/sys/bus/pci/drivers"):
        if os.path.isdir(directory):
            assert {f"{directory}/{name}" for name in os.listdir(directory)} <= shown


def test_real_devices_cannot_be_shown_without_a_namespace() -> None:
    done = Runner()("true", options=["--with-real", "--no-namespace"])
    assert done.returncode == 2
    assert "--with-real needs the namespace" in done.stderr


def said_all(runner: Runner, *argv: str, options: list[str]) -> subprocess.CompletedProcess[str]:
    """As `runner` does it, with what is said about namespaces."""
    command = runner.command(*argv, options=options)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=runner.environment())


def test_a_refused_namespace_is_no_reason_not_to_run(run: Runner) -> None:
    """A filter that refuses unshare(2), as container profiles have one, put on the command itself."""
    refuse = (
        "import ctypes, os, struct, sys\n"
        "step = lambda *fields: struct.pack('HBBI', *fields)\n"
        "code = step(0x20,0,0,0) + step(0x15,0,1,272) + step(6,0,0,0x50001) + step(6,0,0,0x7FFF0000)\n"
        "class Prog(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_char_p)]\n"
        "libc = ctypes.CDLL(None); libc.prctl(38, 1, 0, 0, 0)\n"
        "if libc.syscall(317, 1, 0, ctypes.byref(Prog(4, code))): sys.exit('no filter')\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    limited = Runner([*run.prefix, sys.executable, "-c", refuse])
    done = said_all(limited, "cat", f"{BDF}/vendor", options=["--explain"])
    assert (done.stdout, done.returncode) == ("0x1234\n", 0)
    assert "a mount namespace is not allowed here (EPERM)" in done.stderr
    done = said_all(limited, "true", options=["--with-real"])
    assert done.returncode == 125
    assert "the real devices cannot be shown beside the machine's" in done.stderr
