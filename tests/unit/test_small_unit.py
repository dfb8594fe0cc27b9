"""A small IOMMU on the software host, asked as Linux 7.3.4 is in tests/kernel."""

from __future__ import annotations

from pathlib import Path

import ioas
from tests.support.small_unit import EXPECTED, MACHINE, answers


def test_a_small_iommu_answers_as_the_kernels_does(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(MACHINE)
    with ioas.SoftHost(machine=file) as host:

        def allow(module: str, on: bool) -> None:
            host.machine.tree.write(f"/sys/module/{module}/parameters/allow_unsafe_interrupts", b"Y" if on else b"N")

        assert list(answers(host, "0000:01:00.0", allow)) == EXPECTED
