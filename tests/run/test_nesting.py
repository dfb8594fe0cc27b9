"""A program nests a first stage of its own under edu, as a virtual machine monitor does for its guest."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.run.conftest import CLIENTS, Runner, let_everybody_in

MACHINE = """
[[unit]]
scalable = true

[[device]]
model = "edu"
options = { pri = true }
"""


def test_dma_sees_the_programs_own_table_stale_until_invalidated_and_waits_for_pages(
    run_as_anyone: Runner, tmp_path: Path
) -> None:
    machine = tmp_path / "lab.toml"
    machine.write_text(MACHINE)
    let_everybody_in(tmp_path)
    client = (sys.executable, "-B", str(CLIENTS / "nesting.py"))
    done = run_as_anyone(*client, options=["--machine", str(machine), "--explain", "--cap", "ipc_lock"])
    assert done.stdout.splitlines() == [
        "mapped: old ",
        "edited: old ",
        "another page invalidated: old ",
        "invalidated: 1 new ",
        "asks for 0x1000, permission 1, waits: 1",
        "answered: late",
        "asks for 0x2000, permission 2, waits: 1",
        "refused: kept",
        "written: late",
        "accessed and dirty: True True",
    ]
    assert "0000:01:00.0: DMA write of 4 bytes stopped by the IOMMU at IOVA 0x202000: nothing is mapped" in done.stderr
    assert done.returncode == 0
