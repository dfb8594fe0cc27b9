"""Giving functions to vfio-pci and back: plans, refusals, records and undoing, against a kernel of a few lines."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ioas.errors import EnvironmentRefusal, UsageError
from ioas.inspect import record as records
from ioas.inspect.binding import Change, Step, as_json, carry_out, plan_bind, plan_unbind, plan_undo
from ioas.soft.pci import Link
from tests.inspect.describe import DISK, NETWORK, PORTS, Pc

SECOND = "0000:01:00.1"


class Kernel:
    """What Linux does when the files are written that binding writes."""

    def __init__(self, pc: Pc) -> None:
        self.pc = pc
        self.native = {DISK: "nvme", NETWORK: "igb", SECOND: "snd_hda_intel"}
        """The drivers that match by IDs."""
        self.failing: Step | None = None
        """It refuses this one, once."""
        self.interrupted: Step | None = None
        """Ctrl-C is pressed when this one has been made, once."""
        self.stubborn = False
        """vfio-pci takes nothing."""
        for bdf in (DISK, NETWORK):
            pc.remove(f"{pc.path(bdf)}/vfio-dev")
            pc.driver(bdf, self.native[bdf])
            pc.text(f"{pc.path(bdf)}/driver_override", "(null)")

    def write(self, step: Step) -> None:
        if step == self.failing:
            self.failing = None
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), step.path)
        self._make(step)
        if step == self.interrupted:
            self.interrupted = None
            raise KeyboardInterrupt

    def _make(self, step: Step) -> None:
        name = step.path.rpartition("/")[2]
        if name == "driver_override":
            self.pc.text(self.pc.tree.realpath(step.path), step.text or "(null)")
        elif name == "unbind":
            self.pc.tree.get(step.path.removesuffix("/unbind"), follow=False)  # as the kernel: no file, no driver
            self.pc.driver(step.text, None)
        else:
            self._probe(step.text)

    def _probe(self, bdf: str) -> None:
        override = self.pc.tree.read(f"{self.pc.path(bdf)}/driver_override").decode().strip()
        wanted = self.native.get(bdf) if override == "(null)" else override
        if not (wanted == "vfio-pci" and self.stubborn):
            self.pc.driver(bdf, wanted)

    def driver(self, bdf: str) -> str | None:
        try:
            node = self.pc.tree.get(f"{self.pc.path(bdf)}/driver", follow=False)
        except OSError:
            return None
        return node.target.rpartition("/")[2] if isinstance(node, Link) else None


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(Pc())


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "run/bound.json"


def with_sibling(kernel: Kernel) -> None:
    """A second function in the disk's group, and the port above them."""
    kernel.pc.function(SECOND, 0x040300, below=PORTS[DISK], driver="snd_hda_intel", group=3)
    kernel.pc.text(f"{kernel.pc.path(SECOND)}/driver_override", "(null)")
    kernel.pc.group(PORTS[DISK], 3)


def do(kernel: Kernel, changes: list[Change], record: Path) -> None:
    carry_out(kernel.pc.machine(), changes, record, kernel.write)


def test_a_plan_shows_what_would_be_written_and_changes_nothing(kernel: Kernel) -> None:
    [change] = plan_bind(kernel.pc.machine(), DISK)
    path = f"/sys/bus/pci/devices/{DISK}"
    assert [str(step) for step in change.steps] == [
        f"echo vfio-pci > {path}/driver_override",
        f"echo {DISK} > {path}/driver/unbind",
        f"echo {DISK} > /sys/bus/pci/drivers_probe",
    ]
    assert kernel.driver(DISK) == "nvme"


def test_a_function_is_bound_and_given_back_by_undo(kernel: Kernel, record: Path) -> None:
    do(kernel, plan_bind(kernel.pc.machine(), DISK), record)
    assert kernel.driver(DISK) == "vfio-pci"
    assert plan_bind(kernel.pc.machine(), DISK) == []
    do(kernel, plan_undo(kernel.pc.machine(), record), record)
    assert kernel.driver(DISK) == "nvme"
    assert kernel.pc.machine().sysfs.device(DISK).driver_override is None
    with pytest.raises(UsageError, match="no binding that could be undone"):
        plan_undo(kernel.pc.machine(), record)


def test_undo_restores_an_override_that_was_there(kernel: Kernel, record: Path) -> None:
    kernel.pc.text(f"{kernel.pc.path(DISK)}/driver_override", "pci-stub")
    kernel.pc.driver(DISK, "pci-stub")
    do(kernel, plan_bind(kernel.pc.machine(), DISK), record)
    do(kernel, plan_undo(kernel.pc.machine(), record, DISK), record)
    assert kernel.driver(DISK) == "pci-stub"
    assert kernel.pc.machine().sysfs.device(DISK).driver_override == "pci-stub"


def test_undo_takes_one_function_and_leaves_the_others(kernel: Kernel, record: Path) -> None:
    for bdf in (DISK, NETWORK):
        do(kernel, plan_bind(kernel.pc.machine(), bdf), record)
    do(kernel, plan_undo(kernel.pc.machine(), record, NETWORK), record)
    assert (kernel.driver(DISK), kernel.driver(NETWORK)) == ("vfio-pci", "igb")
    with pytest.raises(UsageError, match=f"no binding of {NETWORK} that"):
        plan_undo(kernel.pc.machine(), record, NETWORK)


def test_unbinding_leaves_the_choice_to_the_kernel(kernel: Kernel, record: Path) -> None:
    do(kernel, plan_bind(kernel.pc.machine(), DISK), record)
    do(kernel, plan_unbind(kernel.pc.machine(), DISK), record)
    assert kernel.driver(DISK) == "nvme"
    assert plan_unbind(kernel.pc.machine(), DISK) == []
    assert not record.exists()


def test_a_group_is_taken_whole_without_its_bridges(kernel: Kernel, record: Path) -> None:
    with_sibling(kernel)
    do(kernel, plan_bind(kernel.pc.machine(), DISK, group=True), record)
    assert [kernel.driver(bdf) for bdf in (DISK, SECOND, PORTS[DISK])] == ["vfio-pci", "vfio-pci", "pcieport"]
    do(kernel, plan_unbind(kernel.pc.machine(), SECOND, group=True), record)
    assert [kernel.driver(bdf) for bdf in (DISK, SECOND)] == ["nvme", "snd_hda_intel"]


def test_what_this_machine_needs_is_refused_unless_forced(kernel: Kernel) -> None:
    with_sibling(kernel)
    kernel.pc.link("/sys/class/net/eth0", f"{kernel.pc.path(SECOND)}/net/eth0")
    kernel.pc.text("/proc/net/route", "Iface\tDestination\neth0\t00000000\t0102A8C0")
    plan_bind(kernel.pc.machine(), DISK)
    with pytest.raises(UsageError, match=f"{SECOND} is needed: the default route goes through eth0; --force"):
        plan_bind(kernel.pc.machine(), DISK, group=True)
    assert len(plan_bind(kernel.pc.machine(), DISK, group=True, force=True)) == 2


def test_what_a_program_holds_is_not_unbound(kernel: Kernel, record: Path) -> None:
    do(kernel, plan_bind(kernel.pc.machine(), DISK), record)
    kernel.pc.vfio(DISK)
    kernel.pc.open_by["/dev/vfio/3"] = ["qemu (pid 7)"]
    for plan in (lambda: plan_unbind(kernel.pc.machine(), DISK), lambda: plan_undo(kernel.pc.machine(), record)):
        with pytest.raises(UsageError, match=r"in use by qemu \(pid 7\); end that program first"):
            plan()


def test_a_bridge_is_refused(kernel: Kernel) -> None:
    for plan in (plan_bind, plan_unbind):
        with pytest.raises(UsageError, match="is a bridge"):
            plan(kernel.pc.machine(), PORTS[DISK])


def test_without_vfio_pci_nothing_is_planned(kernel: Kernel) -> None:
    kernel.pc.remove("/sys/bus/pci/drivers/vfio-pci")
    with pytest.raises(EnvironmentRefusal, match="vfio-pci is not loaded: load it"):
        plan_bind(kernel.pc.machine(), DISK)


def test_a_failure_undoes_what_came_before_it(kernel: Kernel, record: Path) -> None:
    with_sibling(kernel)
    for failing in (0, 1, 2):
        changes = plan_bind(kernel.pc.machine(), DISK, group=True)
        kernel.failing = changes[1].steps[failing]
        with pytest.raises(EnvironmentRefusal, match="Permission denied; nothing was changed"):
            do(kernel, changes, record)
        assert not record.exists()
        assert kernel.driver(DISK) == "nvme"
        assert kernel.pc.machine().sysfs.device(DISK).driver_override is None


def test_a_driver_that_does_not_take_the_function_is_a_failure(kernel: Kernel, record: Path) -> None:
    kernel.stubborn = True
    with pytest.raises(EnvironmentRefusal, match=f"{DISK} has got no driver instead of vfio-pci; nothing was changed"):
        do(kernel, plan_bind(kernel.pc.machine(), DISK), record)
    assert kernel.driver(DISK) == "nvme"


def test_what_cannot_be_put_back_is_not_called_unchanged(kernel: Kernel, record: Path) -> None:
    kernel.stubborn = True
    [change] = plan_bind(kernel.pc.machine(), DISK)
    kernel.failing = Step(change.steps[0].path, "")
    with pytest.raises(EnvironmentRefusal, match="not everything could be put back"):
        do(kernel, [change], record)


def test_ctrl_c_at_any_step_leaves_everything_as_it_was(kernel: Kernel, record: Path) -> None:
    with_sibling(kernel)
    for pressed in (0, 1, 2):
        changes = plan_bind(kernel.pc.machine(), DISK, group=True)
        kernel.interrupted = changes[1].steps[pressed]
        with pytest.raises(KeyboardInterrupt):
            do(kernel, changes, record)
        assert [kernel.driver(bdf) for bdf in (DISK, SECOND)] == ["nvme", "snd_hda_intel"]
        assert not record.exists()


def test_an_interrupted_undo_can_be_repeated(kernel: Kernel, record: Path) -> None:
    do(kernel, plan_bind(kernel.pc.machine(), DISK), record)
    said = record.read_text()
    changes = plan_undo(kernel.pc.machine(), record)
    kernel.interrupted = changes[0].steps[-1]
    with pytest.raises(KeyboardInterrupt):
        do(kernel, changes, record)
    assert (kernel.driver(DISK), record.read_text()) == ("vfio-pci", said)
    do(kernel, plan_undo(kernel.pc.machine(), record), record)
    assert kernel.driver(DISK) == "nvme"


def test_what_cannot_be_put_back_stays_recorded(kernel: Kernel, record: Path) -> None:
    [change] = plan_bind(kernel.pc.machine(), DISK)
    kernel.interrupted = change.steps[-1]
    kernel.failing = Step(change.steps[0].path, "")  # of the way back
    with pytest.raises(EnvironmentRefusal, match="it was interrupted; not everything could be put back"):
        do(kernel, [change], record)
    do(kernel, plan_undo(kernel.pc.machine(), record), record)
    assert kernel.driver(DISK) == "nvme"
    assert kernel.pc.machine().sysfs.device(DISK).driver_override is None


def test_the_record_is_there_before_the_first_step(kernel: Kernel, record: Path) -> None:
    seen: list[object] = []

    def write(step: Step) -> None:
        seen.append(json.loads(record.read_text()))
        kernel.write(step)

    carry_out(kernel.pc.machine(), plan_bind(kernel.pc.machine(), DISK), record, write)
    assert seen == [{DISK: {"driver": "nvme", "override": None}}] * 3
    assert [file.name for file in record.parent.iterdir()] == [record.name]


def test_without_a_record_nothing_is_written(kernel: Kernel, record: Path) -> None:
    record.parent.write_text("a file where the directory should be")
    made: list[Step] = []
    with pytest.raises(EnvironmentRefusal, match=r"bound\.json: Not a directory"):
        carry_out(kernel.pc.machine(), plan_bind(kernel.pc.machine(), DISK), record, made.append)
    record.parent.unlink()
    record.with_name("bound.json.new").mkdir(parents=True)
    with pytest.raises(EnvironmentRefusal, match=r"bound\.json\.new: Is a directory; nothing was changed"):
        carry_out(kernel.pc.machine(), plan_bind(kernel.pc.machine(), DISK), record, made.append)
    assert made == []


@pytest.mark.parametrize(("other", "probes"), [("snd_hda_intel", True), (None, False)])
def test_a_function_without_a_driver_gets_none_back(
    other: str | None, probes: bool, kernel: Kernel, record: Path
) -> None:
    """The kernel has a driver that matches; it must not be asked."""
    with_sibling(kernel)
    kernel.pc.driver(SECOND, other)
    do(kernel, plan_bind(kernel.pc.machine(), SECOND), record)
    [change] = plan_undo(kernel.pc.machine(), record)
    assert any(step.path.endswith("drivers_probe") for step in change.steps) is probes
    do(kernel, [change], record)
    assert kernel.driver(SECOND) == other


def test_rolling_back_leaves_a_function_without_a_driver(kernel: Kernel, record: Path) -> None:
    kernel.pc.driver(DISK, None)
    [change] = plan_bind(kernel.pc.machine(), DISK)
    kernel.interrupted = change.steps[-1]
    with pytest.raises(KeyboardInterrupt):
        do(kernel, [change], record)
    assert kernel.driver(DISK) is None


def test_a_driver_where_none_was_wanted_is_a_failure(kernel: Kernel, record: Path) -> None:
    kernel.pc.driver(DISK, None)
    do(kernel, plan_bind(kernel.pc.machine(), DISK), record)

    def write(step: Step) -> None:
        kernel.write(step)
        if step.path.endswith("unbind"):  # another program binds it at once
            kernel.pc.driver(DISK, "nvme")

    with pytest.raises(EnvironmentRefusal, match=f"{DISK} has got nvme instead of no driver; nothing was"):
        carry_out(kernel.pc.machine(), plan_undo(kernel.pc.machine(), record), record, write)
    assert (kernel.driver(DISK), list(json.loads(record.read_text()))) == ("vfio-pci", [DISK])


def test_rolling_back_restores_vfio_pci_without_an_override(kernel: Kernel, record: Path) -> None:
    """As new_id binds it."""
    kernel.pc.driver(DISK, "vfio-pci")
    [change] = plan_unbind(kernel.pc.machine(), DISK)
    kernel.interrupted = change.steps[-1]
    with pytest.raises(KeyboardInterrupt):
        do(kernel, [change], record)
    assert kernel.driver(DISK) == "vfio-pci"
    assert kernel.pc.machine().sysfs.device(DISK).driver_override is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"0000:01:00.0": "nvme"}',
        '{"0000:01:00.0": {"driver": "nvme"}}',
        '{"0000:01:00.0": {"driver": 5, "override": null}}',
    ],
)
def test_a_record_that_is_garbage_is_named_and_nothing_is_written(text: str, kernel: Kernel, record: Path) -> None:
    record.parent.mkdir()
    record.write_text(text)
    made: list[Step] = []
    with pytest.raises(UsageError, match=r"bound\.json cannot be understood"):
        plan_undo(kernel.pc.machine(), record)
    with pytest.raises(UsageError, match=r"bound\.json cannot be understood"):
        carry_out(kernel.pc.machine(), plan_bind(kernel.pc.machine(), DISK), record, made.append)
    assert (made, record.read_text()) == ([], text)


def test_changes_as_json_name_their_schema(kernel: Kernel) -> None:
    data = json.loads(json.dumps(as_json(plan_bind(kernel.pc.machine(), DISK))))
    assert (data["schema"], data["version"]) == ("ioas.bind", 1)
    assert (data["changes"][0]["before"], data["changes"][0]["after"]) == ("nvme", "vfio-pci")


HOLD = """
import sys
from pathlib import Path
from ioas.inspect.record import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_at_once_are_not_let_at_the_machine(tmp_path: Path) -> None:
    record = tmp_path / "new" / "bound.json"
    command = [sys.executable, "-c", HOLD, str(record)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "held\n"
        refusal = pytest.raises(
            EnvironmentRefusal, match=rf"another ioas bind or unbind is at work \(pid {first.pid}\)"
        )
        with refusal, records.locked(record):
            pass
        first.stdin.close()
    with records.locked(record):
        pass


def test_a_lock_ends_with_its_holder_however_that_ends(tmp_path: Path) -> None:
    record = tmp_path / "bound.json"
    command = [sys.executable, "-c", HOLD, str(record)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.kill()
        first.wait()
        with records.locked(record):
            pass


def test_where_no_lock_can_be_had_nothing_is_begun(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal = pytest.raises(EnvironmentRefusal, match=r"Not a directory|File exists")
    with refusal, records.locked(tmp_path / "file" / "bound.json"):
        pass
