"""Programs that write to sysfs, and sysfs that follows what programs do: drivers, overrides, interrupts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.run.conftest import Runner

BDF = "0000:01:00.0"
DRIVER = "/sys/bus/pci/drivers/vfio-pci"
START = f"""
from edu import *
import errno, threading, select
device, driver = "/sys/bus/pci/devices/{BDF}", "{DRIVER}"

def echo(path, text):
    try:
        with open(path, "w") as file:
            file.write(text + "\\n")
    except OSError as error:
        return error.errno
    return 0
"""
options = pytest.mark.parametrize("options", [[], ["--no-namespace"]], ids=["namespace", "paths"])


def passes(run: Runner, source: str, options: list[str]) -> None:
    done = run.python(START + source, options=options)
    assert (done.stderr, done.returncode) == ("", 0)


@options
def test_a_device_is_taken_from_the_driver_and_given_back(run_as_anyone: Runner, options: list[str]) -> None:
    passes(
        run_as_anyone,
        """
assert echo(f"{driver}/bind", "0000:01:00.0") == errno.EBUSY
assert echo(f"{device}/driver/unbind", "0000:01:00.0") == 0
assert not os.path.lexists(f"{device}/driver") and not os.path.exists(f"{device}/vfio-dev")
assert os.listdir("/dev/vfio/devices") == [] == os.listdir("/sys/class/vfio-dev")
assert "0000:01:00.0" not in os.listdir(driver)
assert "DRIVER" not in open(f"{device}/uevent").read()
try:
    os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
except FileNotFoundError:
    pass
else:
    raise AssertionError
assert echo(f"{device}/driver_override", "nosuch") == 0 and open(f"{device}/driver_override").read() == "nosuch\\n"
assert echo(f"{driver}/bind", "0000:01:00.0") == errno.ENODEV
assert echo(f"{device}/driver_override", "vfio-pci") == 0
assert echo("/sys/bus/pci/drivers_probe", "0000:01:00.0") == 0
assert os.listdir("/dev/vfio/devices") == ["vfio0"] == os.listdir("/sys/class/vfio-dev")
assert os.path.realpath(f"{device}/driver") == driver
Machine().register(4)
""",
        options,
    )


@options
def test_the_shell_commands_of_every_guide_work(run: Runner, options: list[str]) -> None:
    script = f"""
set -e
cd /sys/bus/pci/devices/ 2>/dev/null || true  # without a namespace there may be no such directory to be in
echo {BDF} > {DRIVER}/unbind
echo vfio-pci > /sys/bus/pci/devices/{BDF}/driver_override
echo {BDF} > /sys/bus/pci/drivers_probe
readlink /sys/bus/pci/devices/{BDF}/driver
"""
    done = run("sh", "-c", script, options=options)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "../../../../bus/pci/drivers/vfio-pci\n"


@options
def test_unbinding_waits_until_the_device_is_closed_and_asks_for_it(run: Runner, options: list[str]) -> None:
    passes(
        run,
        """
machine, asked = Machine(), os.eventfd(0)
call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 4, 0, 1, asked)  # the index by which the host asks to let go
results = []
thread = threading.Thread(target=lambda: results.append(echo(f"{driver}/unbind", "0000:01:00.0")))
thread.start()
assert select.select([asked], [], [], 20)[0]
assert os.listdir("/dev/vfio/devices") == [] and os.path.exists(f"{device}/driver") and not results
machine.register(4, 1)  # calls on the open file work on
machine.close()
thread.join(20)
assert results == [0] and not os.path.exists(f"{device}/driver")
assert echo(f"{driver}/bind", "0000:01:00.0") == 0
Machine()
""",
        options,
    )


def test_functions_of_one_group_are_unbound_while_one_of_them_is_open(run: Runner) -> None:
    """Who waits for that one is answered when it is closed, and the group goes with it."""
    options = [word for function in "01" for word in ("--device", f"edu,addr=0000:05:00.{function}")]
    passes(
        run,
        """
machine, asked = Machine(), os.eventfd(0)
call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 4, 0, 1, asked)
results = []
thread = threading.Thread(target=lambda: results.append(echo(f"{driver}/unbind", "0000:05:00.0")), daemon=True)
thread.start()
assert select.select([asked], [], [], 20)[0]
assert echo(f"{driver}/unbind", "0000:05:00.1") == 0
(group,) = os.listdir("/sys/class/vfio")
machine.close()
thread.join(20)
assert results == [0] and os.listdir("/sys/class/vfio") == []
""",
        options,
    )


BROKEN = """
import sys
from ioas.run import Options, Supervisor, take_signals
from ioas.soft.host.groups import VfioGroups
def leave(self, device):
    raise RuntimeError("a bug")
VfioGroups.leave = leave
mask = take_signals()
from ioas.soft.host import SoftHost
sys.exit(128 - Supervisor(SoftHost(["edu"]), sys.argv[1:], Options(), mask).run())
"""


def test_one_who_waits_gets_eio_where_a_bug_of_ours_keeps_the_device_from_being_let_go(run: Runner) -> None:
    program = run.script(
        START
        + """
machine, asked = Machine(), os.eventfd(0)
call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 4, 0, 1, asked)
results = []
thread = threading.Thread(target=lambda: results.append(echo(f"{driver}/unbind", "0000:01:00.0")), daemon=True)
thread.start()
assert select.select([asked], [], [], 20)[0]
machine.close()
thread.join(20)
assert results == [errno.EIO], results
"""
    )
    command = [sys.executable, "-B", "-c", BROKEN, *program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "RuntimeError: a bug" in done.stderr
    assert done.returncode == 128, done.stderr


def test_one_who_waits_for_a_device_can_be_killed(run: Runner) -> None:
    passes(
        run,
        """
import signal
machine, asked = Machine(), os.eventfd(0)
call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 4, 0, 1, asked)
iommufd, device_fd = machine.iommufd, machine.device
child = os.fork()
if child == 0:
    os.close(iommufd); os.close(device_fd)
    echo(f"{driver}/unbind", "0000:01:00.0")
    os._exit(1)
assert select.select([asked], [], [], 20)[0]
os.kill(child, signal.SIGKILL)
assert os.waitpid(child, 0)[1] == signal.SIGKILL
machine.close()
deadline = time.monotonic() + 20
while os.path.exists(f"{device}/driver"):  # it is unbound all the same
    assert time.monotonic() < deadline
assert echo(f"{driver}/bind", "0000:01:00.0") == 0
Machine()
""",
        [],
    )


@options
def test_interrupts_show_their_numbers_while_they_are_enabled(run: Runner, options: list[str]) -> None:
    passes(
        run,
        """
machine, eventfd = Machine(), os.eventfd(0)
pin = open(f"{device}/irq").read()
assert not os.path.exists(f"{device}/msi_irqs")
call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
(number,) = os.listdir(f"{device}/msi_irqs")
assert open(f"{device}/irq").read() == number + "\\n" != pin
assert open(f"{device}/msi_irqs/{number}").read() == "msi\\n"
machine.close()
assert open(f"{device}/irq").read() == pin
assert not os.path.exists(f"{device}/msi_irqs")
""",
        options,
    )


@options
def test_what_sysfs_refuses_is_refused(run: Runner, options: list[str]) -> None:
    """An edu has no SR-IOV: the kernel shows no sriov_numvfs, and sysfs makes no files."""
    passes(
        run,
        """
assert echo(f"{device}/sriov_numvfs", "1") == errno.EACCES
assert echo(f"{device}/nothing", "1") == errno.EACCES == echo(f"{device}/vendor", "1")
for path in (f"{device}/sriov_numvfs", f"{device}/nothing/x"):
    try:
        os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        pass
    else:
        raise AssertionError(path)
assert echo(f"{device}/nothing/x", "1") == errno.ENOENT
assert echo(f"{driver}/new_id", "zz") == errno.EINVAL
fd = os.open(f"{device}/driver_override", os.O_RDWR)
assert os.read(fd, 5) == b"vfio-" and os.read(fd, 50) == b"pci\\n" and os.pread(fd, 3, 1) == b"fio"
assert os.write(fd, b"zz\\n") == 3 and os.pread(fd, 100, 0) == b"zz\\n"
assert (os.lseek(fd, 0, 1), os.lseek(fd, 0, 2), os.lseek(fd, 1, 0)) == (12, 4096, 1)
""",
        options,
    )


@options
def test_configuration_space_is_written_where_and_as_far_as_it_can_be(
    run_as_anyone: Runner, options: list[str]
) -> None:
    """As far as the device lets it: its identity stays. Who has the device open sees what has become of it."""
    passes(
        run_as_anyone,
        """
machine = Machine()
fd = os.open(f"{device}/config", os.O_RDWR)
assert os.pread(fd, 4, 0) == bytes.fromhex("3412e811")
assert os.pwrite(fd, bytes.fromhex("ffffffff0201"), 0) == 6
assert os.pread(fd, 6, 0) == bytes.fromhex("3412e8110201")
assert os.lseek(fd, 4, 0) == 4 and os.write(fd, bytes.fromhex("0701")) == 2 and os.lseek(fd, 0, 1) == 6
assert open(f"{device}/config", "rb").read(6).hex() == "3412e8110701"
assert os.pwrite(fd, bytes(4), 254) == 2
for end in (256, 4096):
    try:
        os.pwrite(fd, b"x", end)
    except OSError as error:
        assert error.errno == errno.EFBIG, error
    else:
        raise AssertionError
machine.close()
""",
        options,
    )
