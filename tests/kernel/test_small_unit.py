"""A small IOMMU - 39 bits, no interrupt remapping - on the real kernel: what the software host answers, too."""

from __future__ import annotations

from pathlib import Path

import pytest

import ioas
from tests.support.kernel_host import edu_address
from tests.support.small_unit import EXPECTED, answers


def allow(module: str, on: bool) -> None:
    Path(f"/sys/module/{module}/parameters/allow_unsafe_interrupts").write_text("Y" if on else "N")


@pytest.mark.guests("small-iommu")
def test_a_small_iommu_answers_as_the_software_hosts_does() -> None:
    with ioas.KernelHost() as host:
        assert list(answers(host, edu_address(host), allow)) == EXPECTED
