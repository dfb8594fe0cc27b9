"""The record of refusals, where it cannot be written."""

from __future__ import annotations

import contextlib

import pytest

from ioas.errors import refuse
from ioas.run.report import Reporter


def test_a_record_that_cannot_be_written_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w", encoding="utf-8") as record:
        reporter = Reporter(explain=False, summary=False, record=record)
        for number in (2, 16):
            reporter.refused(1, 1, "ioctl()", "IOMMU_DESTROY", refuse(number, "no object", "object", 1))
    expected = "ioas: the record of refusals is not whole, it cannot be written: No space left on device\n"
    assert capfd.readouterr().err == expected
