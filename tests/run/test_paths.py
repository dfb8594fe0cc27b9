"""/dev and /sys show the machine: opened, listed, followed and asked about as the kernel would show it."""

from __future__ import annotations

import subprocess

from tests.run.conftest import Runner, left_in_shm

BDF = "/sys/bus/pci/devices/0000:01:00.0"


def passes(run: Runner, source: str) -> None:
    """It does so where the kernel walks the machine's tree, and where the supervisor answers path by path."""
    for options in ([], ["--no-namespace"]):
        done = run.python("import os, stat, errno\n" + source, options=options)
        assert (done.stderr, done.returncode) == ("", 0), options


def fails(call: str, name: str) -> str:
    """Source that checks that `call` raises the errno `name`."""
    return (
        f"try: {call}\nexcept OSError as error: assert error.errno == errno.{name}, error\n"
        f"else: raise AssertionError({call!r})\n"
    )


def test_the_tree_is_walked_by_links_directories_and_texts(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        f"""
bdf = {BDF!r}
assert os.readlink(bdf).startswith("../../../devices/pci0000:00/")
assert os.path.realpath(bdf) == "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
assert os.path.realpath(bdf + "/subsystem") == "/sys/bus/pci"
assert os.path.basename(os.readlink(bdf + "/driver")) == "vfio-pci"
assert "0000:01:00.0" in os.listdir("/sys/bus/pci/devices")
assert open(bdf + "/vendor").read() == "0x1234\\n"
assert open(bdf + "/config", "rb").read(4) == bytes.fromhex("3412e811")
assert os.listdir(bdf + "/vfio-dev") == ["vfio0"]
group = os.path.basename(os.readlink(bdf + "/iommu_group"))
assert os.listdir(f"/sys/kernel/iommu_groups/{{group}}/devices") == ["0000:01:00.0"]
names = [os.path.join(where, name) for where, _, files in os.walk("/sys/bus/pci") for name in files]
assert names is not None
assert sorted(os.listdir("/dev/vfio")) == [group, "devices", "vfio"]
assert [entry.name for entry in os.scandir("/dev/vfio/devices") if stat.S_ISCHR(entry.stat().st_mode)] == ["vfio0"]
""",
    )


def test_plain_directories_on_the_way_are_no_links(run: Runner) -> None:
    passes(
        run,
        "".join(fails(f"os.readlink({path!r})", "EINVAL") for path in ("/sys/bus", "/sys/bus/pci", BDF + "/vendor")),
    )


def test_stat_tells_kinds_apart(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        f"""
bdf = {BDF!r}
assert stat.S_ISLNK(os.lstat(bdf).st_mode) and stat.S_ISDIR(os.stat(bdf).st_mode)
assert stat.S_ISDIR(os.stat("/dev/vfio").st_mode)
assert stat.S_ISREG(os.stat(bdf + "/vendor").st_mode) and stat.S_IMODE(os.stat(bdf + "/vendor").st_mode) == 0o444
fd = os.open(bdf, os.O_RDONLY | os.O_DIRECTORY)
assert os.path.samestat(os.fstat(fd), os.stat(bdf))
assert os.path.samestat(os.stat("config", dir_fd=fd), os.stat(bdf + "/config"))
assert os.stat(bdf + "/config").st_uid == 0
""",
    )


def test_paths_relative_to_directories_and_with_detours_are_found(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        f"""
bdf = {BDF!r}
os.chdir("/dev")
os.close(os.open("iommu", os.O_RDWR))
os.close(os.open("./vfio/../vfio/devices//vfio0", os.O_RDWR))
os.close(os.open("/dev/../dev/iommu", os.O_RDWR))
nodes = os.open("/dev/vfio/devices", os.O_RDONLY | os.O_DIRECTORY)
os.close(os.open("vfio0", os.O_RDWR, dir_fd=nodes))
dev = os.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
os.close(os.open("iommu", os.O_RDWR, dir_fd=dev))
device = os.open(bdf, os.O_RDONLY | os.O_DIRECTORY)
assert os.read(os.open("device", os.O_RDONLY, dir_fd=device), 9) == b"0x11e8\\n"
assert open(bdf + "/subsystem/devices/0000:01:00.0/device").read() == "0x11e8\\n"
""",
    )


def test_what_is_not_there_and_what_may_not_be_done_has_the_kernels_errno(run: Runner) -> None:
    passes(
        run,
        fails("os.open('/dev/vfio/devices/vfio7', os.O_RDWR)", "ENOENT")
        + fails("os.stat('/dev/vfio/7')", "ENOENT")
        + fails(f"os.open('{BDF}/nothing', os.O_RDONLY)", "ENOENT")
        + fails("os.open('/dev/iommu/x', os.O_RDONLY)", "ENOTDIR")
        + fails("os.open('/dev/iommu', os.O_RDONLY | os.O_DIRECTORY)", "ENOTDIR")
        + fails("os.open('/dev/iommu', os.O_CREAT | os.O_EXCL | os.O_RDWR)", "EEXIST")
        + fails(f"os.open('{BDF}', os.O_RDONLY | os.O_NOFOLLOW)", "ELOOP")
        + fails("os.open('/sys/bus/pci', os.O_RDWR)", "EISDIR")
        + fails(f"os.open('{BDF}/vendor', os.O_WRONLY)", "EACCES")
        + fails("os.stat('/dev/iommu/')", "ENOTDIR"),
    )


def test_a_path_leads_out_of_the_machine_again(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        f"""
bdf = {BDF!r}
assert os.path.samestat(os.stat("/dev/vfio/.."), os.stat("/dev/vfio/../vfio/.."))
assert stat.S_ISDIR(os.lstat("/sys/bus/pci/..").st_mode) and os.access("/dev/vfio/..", os.X_OK)
assert os.stat("/dev/vfio/../null").st_mode == os.stat("/dev/null").st_mode
assert os.open("/dev/vfio/devices/../../null", os.O_RDONLY) > 2
assert os.listdir("/sys/bus/pci/../../kernel/mm") == os.listdir("/sys/kernel/mm")
assert os.readlink("/dev/vfio/../fd") == "/proc/self/fd"
assert open(bdf + "/../../0000:00:01.0/0000:01:00.0/vendor").read() == "0x1234\\n"
""",
    )
    passes(run_as_anyone, fails("os.stat('/dev/vfio/../nothing')", "ENOENT"))


def test_access_follows_the_modes(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        f"""
assert os.access("/dev/iommu", os.R_OK | os.W_OK) and not os.access("/dev/iommu", os.X_OK)
assert os.access({BDF!r} + "/vendor", os.R_OK) and not os.access({BDF!r} + "/vendor", os.W_OK)
assert os.access({BDF!r}, os.X_OK) and not os.access("/dev/vfio/12", os.F_OK)
""",
    )


def test_the_real_file_system_is_untouched(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
assert os.path.isdir("/proc/self") and os.stat("/dev/null").st_rdev == os.makedev(1, 3)
assert "pci" in os.listdir("/sys/bus") or True
assert open("/etc/passwd").read().startswith("root")
assert not any(name.startswith("ioas") for name in os.listdir("/dev"))
""",
    )


def test_ls_walks_the_machine_without_complaint(run: Runner) -> None:
    for options in ([], ["--no-namespace"]):
        where = ("/dev/iommu", "/dev/vfio", "/sys/bus/pci/devices/", "/sys/devices/pci0000:00")
        done = run("ls", "-laR", *where, options=options)
        assert done.stderr == ""
        assert "vfio0" in done.stdout


def test_nothing_is_left_in_shared_memory(run: Runner) -> None:
    before = left_in_shm()
    run("ls", "/sys/bus/pci/devices")
    assert left_in_shm() <= before


def test_what_a_killed_supervisor_leaves_is_removed_by_the_next(run: Runner) -> None:
    source = "import os, time; os.listdir('/sys/bus/pci'); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(run.command(*run.script(source)), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = left_in_shm()
        process.kill()
    left = left_in_shm() - before
    run("true")
    assert not left & left_in_shm()
