"""What cannot be run is refused before anything is started: one line, and the status that env(1) would give."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from tests.run.conftest import Runner, let_everybody_in


def elf(bits: int = 64, machine: int = 62, interpreter: bytes = b"") -> bytes:
    """The head of an executable file, enough of it for those who look."""
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    segments = 1 if interpreter else 0
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400000, 64, 0, 0, 64, 56, segments, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(interpreter) + 1, len(interpreter) + 1, 1)
    return head + (segment + interpreter + b"\0" if interpreter else b"")


def executable(path: Path, content: bytes, mode: int = 0o755) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def refused(run: Runner, program: str, status: int, *said: str) -> None:
    done = run(program)
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("ioas: ")
    for words in (program, *said):
        assert words in done.stderr


def test_a_missing_program_has_status_127(run: Runner, tmp_path: Path) -> None:
    refused(run, "no-such-program", 127, "not found")
    refused(run, str(tmp_path / "nothing"), 127, "no such file")
    refused(run, "/etc/passwd/x", 127)


def test_what_is_no_program_has_status_126(run: Runner, tmp_path: Path) -> None:
    refused(run, executable(tmp_path / "text", b"text", 0o644), 126, "not executable")
    refused(run, str(tmp_path), 126, "directory")
    refused(run, "/dev/null", 126, "not a regular file")


def test_programs_of_other_architectures_are_named(run: Runner, tmp_path: Path) -> None:
    refused(run, executable(tmp_path / "i386", elf(32, 3)), 126, "32-bit")
    refused(run, executable(tmp_path / "arm", elf(64, 183)), 126, "another architecture")


def test_missing_interpreters_are_named(run: Runner, tmp_path: Path) -> None:
    refused(run, executable(tmp_path / "script", b"#!/no/such/shell -e\n"), 127, "/no/such/shell")
    refused(run, executable(tmp_path / "dynamic", elf(interpreter=b"/no/ld.so")), 127, "/no/ld.so")
    foreign = executable(tmp_path / "i386", elf(32, 3))
    refused(run, executable(tmp_path / "indirect", f"#!{foreign}\n".encode()), 126, "32-bit")
    refused(run, executable(tmp_path / "empty", b"#!\n"), 126, "names no interpreter")


def test_set_id_programs_are_refused(run: Runner, tmp_path: Path) -> None:
    refused(run, executable(tmp_path / "setuid", elf(), 0o4755), 126, "is setuid")
    refused(run, executable(tmp_path / "setgid", elf(), 0o2755), 126, "is setgid")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give file capabilities")
def test_programs_with_file_capabilities_are_refused(run: Runner, tmp_path: Path) -> None:
    path = executable(tmp_path / "capable", elf())
    try:
        os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 14, 0, 0, 0))
    except OSError:
        pytest.skip("this file system keeps no capabilities")
    refused(run, path, 126, "file capabilities")


def test_a_program_that_cannot_be_read_is_refused(run_as_nobody: Runner, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs a file of another user's")
    let_everybody_in(tmp_path)
    refused(run_as_nobody, executable(tmp_path / "secret", elf(), 0o711), 126, "cannot be read")


def test_what_execve_alone_finds_is_told_in_one_line_too(run: Runner, tmp_path: Path) -> None:
    refused(run, executable(tmp_path / "broken", elf()), 126, "exec format error")


def test_a_child_of_another_architecture_is_refused_and_named(run: Runner, tmp_path: Path) -> None:
    program = executable(tmp_path / "i386", elf(32, 3))
    source = f"import os\ntry: os.execv({program!r}, ['x'])\nexcept OSError as error: print(error.errno)"
    done = run.python(source)
    assert done.stdout == "8\n"
    assert "is a 32-bit program" in done.stderr


def test_a_wrong_machine_ends_before_the_program_starts(run: Runner, tmp_path: Path) -> None:
    machine = tmp_path / "lab.toml"
    machine.write_text('[machine]\nisolation = "strict"\n\n[[device]]\nmodel = "edu"\ncolour = "red"\n')
    witness = tmp_path / "witness"
    done = run("touch", str(witness), options=["--machine", str(machine)])
    assert done.returncode == 2
    assert f"{machine}:6" in done.stderr
    assert "colour" in done.stderr
    assert not witness.exists()


def test_an_interrupt_while_the_machine_is_built_ends_the_command(run: Runner) -> None:
    import signal

    with subprocess.Popen(run.command("sleep", "60"), stderr=subprocess.PIPE) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
