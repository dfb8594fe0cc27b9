"""What --explain and --summary say, and what is said without them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.run.conftest import CLIENTS, NO_NAMESPACE, Runner

REFUSED = """
from edu import *
machine = Machine()
memory = shared()
try:
    machine.map(address_of(memory), 4096, iova=0xfee00000)
except OSError as error:
    print(error.errno)
"""


def test_a_refused_call_is_explained_with_program_call_arguments_errno_reason_and_culprit(
    run_as_anyone: Runner,
) -> None:
    done = run_as_anyone.python(REFUSED, options=["--explain", "--cap", "ipc_lock"])
    line = done.stderr.splitlines()[-1]
    assert done.stdout == "22\n"
    assert re.match(r"ioas: python[\w.]*\[\d+\]: ioctl\(IOMMU_IOAS_MAP, \{size=40, flags=7, ioas_id=\d+, ", line)
    assert "user_va=0x" in line
    assert "iova=0xfee00000" in line
    assert ") = -1 EINVAL: " in line
    assert "0xfee00000-0xfeefffff" in line or "region" in line


def test_refused_calls_are_written_down_for_programs(run: Runner, tmp_path: Path) -> None:
    record = tmp_path / "refusals"
    done = run.python(REFUSED, options=["--refusals", str(record), "--cap", "ipc_lock"])
    assert (done.stdout, done.stderr) == ("22\n", "")
    (line,) = record.read_text().splitlines()
    refused = json.loads(line)
    assert refused["process"].startswith("python")
    assert refused["name"] == "IOMMU_IOAS_MAP"
    assert refused["call"].startswith("ioctl(IOMMU_IOAS_MAP, {size=40, flags=7, ")
    assert refused["errno"] == "EINVAL"
    assert "meets reserved 0xfee00000-0xfeefffff" in refused["reason"]
    assert refused["culprit"]["kind"] == "region"
    assert refused["culprit"]["name"].startswith("0xfee00000-0xfeefffff")


def test_a_record_that_cannot_be_written_is_said_before_the_program_starts(run: Runner) -> None:
    done = run("echo", "started", options=["--refusals", "/nowhere/at/all"])
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert done.stderr == "ioas: refusals cannot be written to /nowhere/at/all: No such file or directory\n"


def test_nothing_is_said_unasked(run: Runner) -> None:
    assert run.python(REFUSED).stderr == ""


def test_a_refused_read_names_the_file_and_the_offset(run: Runner) -> None:
    read = "os.pread(os.open('/dev/vfio/devices/vfio0', os.O_RDWR), 4, CONFIG)"
    source = f"from edu import *\ntry: {read}\nexcept OSError: pass"
    done = run.python(source, options=["--explain"])
    assert "pread64(/dev/vfio/devices/vfio0, 4 bytes, offset 0x70000000000) = -1 EINVAL: " in done.stderr


def test_a_node_that_the_machine_does_not_have_is_named(run: Runner) -> None:
    done = run("cat", "/dev/vfio/7", options=["--explain"])
    assert "open(/dev/vfio/7) = -1 ENOENT: this machine has no such device node" in done.stderr


def test_a_dma_that_the_iommu_stops_is_explained(run: Runner) -> None:
    source = "from edu import *\nmachine = Machine()\nmachine.copy(0x1234000, BUFFER, 64, to_memory=False)"
    done = run.python(source, options=["--explain"])
    said = "ioas: 0000:01:00.0: DMA read of 64 bytes stopped by the IOMMU at IOVA 0x1234000: nothing is mapped"
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


def test_the_summary_counts_calls_refusals_and_faults(run: Runner) -> None:
    mapped = "machine.map(address_of(memory), 4096); machine.copy(IOVA, BUFFER, 4096, to_memory=False)\n"
    done = run.python(REFUSED + mapped + "machine.copy(0x1234000, BUFFER, 64, to_memory=False)", options=["--summary"])
    lines = re.findall(r"^ioas: summary: +(\d+)  (.*)$", done.stderr, re.MULTILINE)
    counts = {name: int(number) for number, name in lines}
    assert counts["call open /dev/iommu"] == counts["call IOMMU_IOAS_ALLOC"] == 1
    assert counts["call IOMMU_IOAS_MAP"] == 2
    assert counts["refused IOMMU_IOAS_MAP EINVAL"] == 1
    assert counts["call pwrite64"] == 9
    assert "devices read 4096 bytes and wrote 0 bytes by DMA; 1 DMA fault," in done.stderr


def test_a_bug_of_ours_is_one_line_and_an_error_to_the_program(run: Runner) -> None:
    """A machine that fails in every way it can; the program goes on."""
    machine = """
        from ioas.run import Supervisor
        from ioas.soft.host import SoftHost
        class Broken(SoftHost):
            def open(self, caller, path, flags):
                raise ZeroDivisionError("oops")
        client = "import os\\ntry: os.open('/dev/iommu', 2)\\nexcept OSError as e: print(e.errno)"
        status = Supervisor(Broken(), [sys.executable, "-c", client]).run()
        sys.exit(status)
    """
    done = subprocess.run(run.script(machine), capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("5\n", 0)
    assert re.fullmatch(r"ioas: internal error at .*: ZeroDivisionError: oops; please report .*\n", done.stderr)


BROKEN = """
import ioas.soft.host.models as models
from ioas.devices.edu import Edu

class Broken(Edu):
    def write_window(self, bar, offset, data):
        raise ZeroDivisionError("oops")

models.load_model = lambda name: Broken
import ioas.soft.host.assembly as assembly
assembly.load_model = models.load_model
from ioas.cli.main import main
sys.argv = ["ioas", "run", *OPTIONS, "--", sys.executable, "-B", "-c", CLIENT]
main()
"""
DRIVER = """
from edu import *
machine = Machine()
machine.register(0x08, 5)
print(hex(machine.register(0)))
"""


def dead(run: Runner, *options: str) -> subprocess.CompletedProcess[str]:
    head = f"import sys; sys.path.insert(0, {str(CLIENTS)!r})\n"
    source = BROKEN.replace("OPTIONS", repr(list(options))).replace("CLIENT", repr(head + DRIVER))
    return subprocess.run(run.script(source), capture_output=True, text=True, check=False, timeout=60)


def test_a_model_that_fails_is_told_and_the_program_sees_a_dead_device(run: Runner) -> None:
    done = dead(run)
    said = NO_NAMESPACE.sub("", done.stderr)
    assert (done.stdout, done.returncode) == ("0xffffffff\n", 0)
    assert said.startswith("ioas: the model of edu 0000:01:00.0 failed in a write of 4 bytes (0x5) to factorial ")
    assert "ZeroDivisionError: oops (<string>:" in said
    assert said.endswith("--explain shows the traceback\n")
    assert said.count("\n") == 1


def test_explain_shows_the_traceback_of_the_model(run: Runner) -> None:
    done = dead(run, "--explain", "--summary")
    assert "ioas:   Traceback (most recent call last):" in done.stderr
    assert all(line.startswith("ioas: ") for line in done.stderr.splitlines())
    assert "1 failure of device models" in done.stderr


MAPPED = """
import ctypes, fcntl, mmap
from edu import *
machine = Machine()
registers = (ctypes.c_uint32 * 1024).from_buffer(mmap.mmap(machine.device, 4096))
memory = mmap.mmap(machine.device, 65536, offset=2 << 40)
ONES, ALIVE = 0xffffffff, 0x54534554
registers[0x50 // 4] = 1
while registers[0] != ONES:
    pass
print(memory[:2])
fcntl.ioctl(machine.device, 0x3B6F)
while registers[0] != ALIVE:
    pass
print(memory[:2])
"""


@pytest.mark.parametrize("mmio", ["trap", "poll"])
def test_a_model_may_die_of_a_store_through_a_mapping_and_lives_again_after_a_reset(run: Runner, mmio: str) -> None:
    done = run.python(MAPPED, options=["--device", "testdev", "--mmio", mmio])
    assert done.stdout == "b'\\xff\\xff'\nb'\\x00\\x00'\n"
    assert "ioas: the model of testdev 0000:01:00.0 failed in a write of 4 bytes (0x1) to fail " in done.stderr
