"""A run of the guest ends with the command's status or with a sentence, within its limits, whatever QEMU does."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ioas.errors import EnvironmentRefusal, UsageError
from tools.reference.guest import DEVICES, VARIANTS, Guest
from tools.reference.session import GuestError, Limits, Session, TimeLimitError

FAKE = Path(__file__).with_name("data") / "fake_qemu.py"
LONG = Limits(command=60, boot=60, silence=60, end=60)


def guest(*qemu: str, **options: object) -> Guest:
    return Guest("iommu", Path("/kernel"), qemu, environment={"A": "b"}, **options)  # type: ignore[arg-type]


class Run:
    """One run of the scene `name` of fake_qemu.py."""

    def __init__(self, name: str, limits: Limits = LONG) -> None:
        self.out, self.err = io.BytesIO(), io.BytesIO()
        self._limits = limits
        self._session = Session(
            guest(sys.executable, str(FAKE), name), ["command", "-x"], Path("/here"), self.out, self.err
        )

    def status(self) -> int:
        return self._session.run(self._limits)


def test_the_status_is_the_commands_and_its_streams_stay_apart() -> None:
    run = Run("well")

    assert run.status() == 7
    job = json.loads(run.out.getvalue())
    assert (job["argv"], job["cwd"]) == (["command", "-x"], "/here")
    assert job["env"] == {"A": "b", "IOAS_GUEST": "iommu", "TMPDIR": "/run/tmp"}
    assert run.err.getvalue() == b"to the other stream"


@pytest.mark.parametrize(
    ("scene", "limits", "reason", "console"),
    [
        ("panic", LONG, "kernel panicked", "no more"),
        ("broken", LONG, "QEMU ended with status 1", "no such machine"),
        ("killed", LONG, r"QEMU was killed by signal 9 \(Killed\)", ""),
        ("off", LONG, "powered off before the command had ended", ""),
        ("dark", replace(LONG, boot=2), "was not up after 2 s", "booting"),
        ("silent", replace(LONG, silence=2), "hangs: it has given no sign of life for 2 s", "stuck"),
    ],
)
def test_a_guest_that_dies_or_hangs_is_told_with_its_last_words(
    scene: str, limits: Limits, reason: str, console: str
) -> None:
    with pytest.raises(GuestError, match=reason) as raised:
        Run(scene, limits).status()

    assert console in raised.value.console
    assert not isinstance(raised.value, TimeLimitError)


def test_a_command_that_takes_too_long_is_another_matter() -> None:
    with pytest.raises(TimeLimitError, match=r"still running after 2 s \(--timeout\)"):
        Run("busy", replace(LONG, command=2)).status()


def test_a_status_counts_though_the_guest_does_not_power_off() -> None:
    assert Run("lingering", replace(LONG, end=2)).status() == 0


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b"3", b'{"event": {}}', b'{"event": "status"}']))
def test_a_guest_that_babbles_is_no_reason_to_fall_over(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setenv("BABBLE", line.hex())
    with pytest.raises(GuestError, match=r"is no event|not up"):
        Run("babbling", Limits(boot=0.5)).status()


def test_without_qemu_the_environment_is_to_blame() -> None:
    session = Session(guest("/nowhere/qemu"), ["true"], Path("/"), io.BytesIO(), io.BytesIO())

    with pytest.raises(EnvironmentRefusal, match=r"QEMU does not start: .*/nowhere/qemu"):
        session.run()


def test_only_the_outputs_can_be_written(tmp_path: Path) -> None:
    odd = tmp_path / "a,b"
    odd.mkdir()
    command = guest("qemu", outputs=(odd,)).command([3, 4, 5], 6)
    exports = [word for before, word in pairwise(command) if before == "-fsdev"]

    assert [("path=/," in word, word.endswith("readonly=on")) for word in exports] == [(True, True), (False, False)]
    assert f"path={tmp_path}/a,,b," in exports[1]


def test_an_output_has_to_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none is no directory"):
        guest("qemu", outputs=(tmp_path / "none",))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_device_stands_behind_a_port_of_its_own(variant: str) -> None:
    command = Guest(variant, Path("/kernel"), ("qemu",)).command([3, 4, 5], 6)

    for number, model in enumerate(DEVICES, 1):
        assert f"{model},bus=port{number}" in command
    assert any("intel-iommu" in word for word in command) is (variant != "noiommu")


def test_a_kernel_command_line_that_would_be_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/" + "x" * 2048)

    with pytest.raises(UsageError, match="cannot hold the paths"):
        guest("qemu").command([3, 4, 5], 6)
