"""An unmodified QEMU takes a device of ours to another QEMU on another machine, in the middle of what it does.

Their processors stand still: the tests make the accesses that a guest's driver would. QEMU itself asks for the
device's migration states, moves its stream and the memory of the machine, and asks which pages the device has written.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.qtest import BAR, MEMORY_AND_MASTER, Guest
from tests.run.conftest import Runner

DEVICE = "vfio-pci,host=0000:01:00.0,addr=03.0,enable-migration=on"
WAYS = {
    "iommufd": ["-object", "iommufd,id=i", "-device", f"{DEVICE},iommufd=i"],
    "container": ["-device", DEVICE],
}
HALTED = b"\x90" * 0xFFF0 + b"\xfa\xf4\xeb\xfc".ljust(16, b"\x90")
"""Firmware: what stands at the reset vector is cli, hlt, and a jump back."""
SOURCE, DESTINATION, COUNT, COMMAND, STATUS = 0x80, 0x88, 0x90, 0x98, 0x24
START, TO_MEMORY, INTERRUPT = 1, 2, 4
BUFFER, PAGE, OTHER = 0x40000, 0x100000, 0x200000
BUSY, MEBIBYTE = 0x280000, 1 << 20
VALUE = 0x1122334455667788
PATIENCE = 60


class Vm(Guest):
    """A QEMU that edu is passed to, and its monitor."""

    def __init__(self, process: subprocess.Popen[str], monitor: socket.socket) -> None:
        super().__init__(process)
        self._monitor = monitor.makefile("rw")
        self._monitor.readline()
        self.order("qmp_capabilities")

    def order(self, command: str, **arguments: object) -> Any:
        """A command of the monitor; what it answers."""
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._monitor.flush()
        for line in self._monitor:
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                assert "return" in answer, answer
                return answer["return"]
        raise AssertionError("the monitor is gone")

    def close(self) -> None:
        self.order("quit")
        self._monitor.close()

    def wait(self, command: str, condition: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as wanted."""
        deadline = time.monotonic() + PATIENCE
        while not condition(answer := self.order(command)):
            assert time.monotonic() < deadline, answer
            time.sleep(0.01)
        return answer

    def begin_transfer(self, source: int, destination: int, command: int) -> None:
        """Let edu move 8 bytes."""
        for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, 8), (COMMAND, command)):
            self.ask("writeq", BAR + register, value)

    def end_transfer(self) -> None:
        while self.ask("readq", BAR + COMMAND) & START:
            pass

    def fill_buffer(self) -> None:
        """Program the BAR, and have `VALUE` in the device's buffer."""
        self.config_write(0x10, BAR)
        self.config_write(0x04, MEMORY_AND_MASTER)
        self.ask("writeq", PAGE, VALUE)
        self.begin_transfer(PAGE, BUFFER, START)
        self.end_transfer()


class Launcher:
    """Starts QEMU under ``ioas run`` on machines with edu, in a directory of its own."""

    def __init__(self, run: Runner, qemu: tuple[str, ...], way: str, place: Path, tidy: ExitStack) -> None:
        """`way`: how QEMU opens the device, one of `WAYS`."""
        self._run, self._qemu, self._way, self._place, self._tidy = run, qemu, way, place, tidy
        self._count = 0
        (place / "halted").write_bytes(HALTED)
        self.state = f"file:{place / 'state'}"

    def __call__(self, *words: str) -> Vm:
        self._count += 1
        monitor = self._place / f"monitor-{self._count}"
        command = [*self._qemu, "-machine", "q35", "-accel", "tcg", "-bios", str(self._place / "halted"), "-m", "4"]
        command += ["-display", "none", "-nodefaults", "-qtest", "stdio", "-qmp", f"unix:{monitor},server=on,wait=off"]
        command += [*WAYS[self._way], *words]
        return self._tidy.enter_context(self._started(command, monitor))

    @contextmanager
    def _started(self, command: list[str], monitor: Path) -> Iterator[Vm]:
        process = subprocess.Popen(
            self._run.command(*command, options=["--device", "edu,migration=on"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process, socket.socket(socket.AF_UNIX) as connection:
            try:
                _connect(connection, monitor, process)
                vm = Vm(process, connection)
                yield vm
                vm.close()
            finally:
                process.terminate()


def _connect(connection: socket.socket, monitor: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.connect(os.fspath(monitor))
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None, "QEMU has ended"
            assert time.monotonic() < deadline, "QEMU has no monitor"
            time.sleep(0.01)
        else:
            return


@pytest.fixture(params=WAYS)
def launch(request: pytest.FixtureRequest, run: Runner, qemu: tuple[str, ...], tmp_path: Path) -> Iterator[Launcher]:
    with ExitStack() as tidy:
        yield Launcher(run, qemu, request.param, tmp_path, tidy)


def completed(answer: dict[str, Any]) -> bool:
    assert answer.get("status") != "failed", answer
    return bool(answer.get("status") == "completed")


def test_a_dma_that_is_under_way_ends_in_the_other_machine_with_its_interrupt(launch: Launcher) -> None:
    here = launch()
    here.fill_buffer()
    here.begin_transfer(BUFFER, OTHER, START | TO_MEMORY | INTERRUPT)
    here.order("migrate", uri=launch.state)
    moved = here.wait("query-migrate", completed)
    assert moved["vfio"]["transferred"] > 4096
    there = launch("-incoming", launch.state)
    there.wait("query-status", lambda answer: answer["status"] == "running")
    there.end_transfer()
    assert there.ask("readq", OTHER) == VALUE
    assert there.ask("readl", BAR + STATUS) == 0x100


def test_what_the_device_writes_while_memory_is_moved_arrives_by_its_log(launch: Launcher) -> None:
    """All pages have been moved once; then the device writes one, of which QEMU knows from the device alone.

    As long as the test goes on writing to other memory, QEMU has more to move, and does not come to an end.
    """
    here = launch()
    here.fill_buffer()
    here.order("migrate-set-parameters", **{"max-bandwidth": 2 * MEBIBYTE})
    here.ask("memset", BUSY, MEBIBYTE, 0xAB)
    here.order("migrate", uri=launch.state)

    def moved_once(answer: dict[str, Any]) -> bool:
        here.ask("memset", BUSY, MEBIBYTE, 0xAB)
        return bool(answer.get("ram", {}).get("dirty-sync-count", 0) > 3)

    here.wait("query-migrate", moved_once)
    here.begin_transfer(BUFFER, OTHER, START | TO_MEMORY)
    while here.ask("readq", BAR + COMMAND) & START:
        here.ask("memset", BUSY, MEBIBYTE, 0xAB)
    assert here.ask("readq", OTHER) == VALUE
    assert here.order("query-migrate")["status"] == "active"
    here.order("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    here.wait("query-migrate", completed)
    there = launch("-incoming", launch.state)
    there.wait("query-status", lambda answer: answer["status"] == "running")
    assert there.ask("readq", OTHER) == VALUE
