"""The public suite on the running kernel: what passes on the software host everywhere passes here as well."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ioas
from ioas.errors import UsageError
from ioas.testing.hosts import counterpart
from tests.support import lanes

ROOT = Path(__file__).parents[2]


@pytest.mark.guests("iommu", "iommufd-container", "noiommu")
def test_the_public_suite_passes_on_the_running_kernel(guest_variant: str) -> None:
    with ioas.KernelHost() as host:
        try:
            bdf = counterpart(host, "edu")
        except UsageError as error:
            lanes.require("kernel", str(error))
    command = [sys.executable, "-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider", "--ioas-host=kernel"]
    done = subprocess.run(
        [*command, f"--ioas-device={bdf}", "src/ioas/testing/suite"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout)
    if guest_variant != "noiommu":  # there is everything, but for what QEMU's IOMMU cannot
        skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
        assert [line for line in skipped if "EOPNOTSUPP" not in line] == []
