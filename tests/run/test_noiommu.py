"""A machine without an IOMMU under `ioas run`: nodes, privileges, and the taint."""

from __future__ import annotations

from tests.run.conftest import Runner

NO_IOMMU = ["--no-iommu"]


def test_nodes_say_that_there_is_no_iommu(run_as_anyone: Runner) -> None:
    done = run_as_anyone("ls", "/dev/vfio", "/dev/vfio/devices", options=NO_IOMMU)
    if run_as_anyone.has_namespace():
        assert done.stdout == "/dev/vfio:\ndevices\nnoiommu-0\nvfio\n\n/dev/vfio/devices:\nnoiommu-vfio0\n"
    for path in ("/dev/vfio/noiommu-0", "/dev/vfio/devices/noiommu-vfio0"):
        assert run_as_anyone("test", "-c", path, options=NO_IOMMU).returncode == 0


def test_opening_is_for_sys_rawio_which_can_be_granted(run_as_nobody: Runner) -> None:
    source = "import os, sys\nfor path in sys.argv[1:]: os.close(os.open(path, os.O_RDWR)); print('opened')"
    nodes = ("/dev/vfio/noiommu-0", "/dev/vfio/devices/noiommu-vfio0")
    for node in nodes:
        done = run_as_nobody.python(source, node, options=[*NO_IOMMU, "--explain"])
        assert "PermissionError: [Errno 1]" in done.stderr
        assert f"open({node}) = -1 EPERM: no IOMMU stands before" in done.stderr
        assert "(capability CAP_SYS_RAWIO)" in done.stderr
    done = run_as_nobody.python(source, *nodes, options=[*NO_IOMMU, "--cap", "sys_rawio"])
    assert done.stdout == "opened\nopened\n"


def test_the_kernel_is_tainted_and_says_so(run_as_anyone: Runner) -> None:
    reads = (
        "cat /proc/sys/kernel/tainted; while read -r flags; do echo $((flags & 64)); done < /proc/sys/kernel/tainted"
    )
    tainted = run_as_anyone("sh", "-c", reads, options=[*NO_IOMMU, "--explain", "--summary"])
    number, user_flag = tainted.stdout.split()
    assert (int(number) & 64, user_flag) == (64, "64")
    assert "0000:01:00.0: VFIO gives it to programs without an IOMMU (no-IOMMU mode): the kernel is tainted (U)" in (
        tainted.stderr
    )
    assert "summary: kernel tainted (U) by 0000:01:00.0" in tainted.stderr
    usual = run_as_anyone("sh", "-c", reads, options=["--summary"])
    assert int(usual.stdout.split()[0]) == int(number) & ~64
    assert "tainted" not in usual.stderr
