"""What `tests/differential` holds against the software host, asked of the kernel: some thousand calls."""

from __future__ import annotations

import pytest

from tests.differential import found, hosts
from tests.differential.compare import differences
from tests.support import guest


@pytest.mark.guests("iommu", "noiommu")
def test_the_kernel_answers_as_is_written_down() -> None:
    kept = [each for each in found.every().values() if each.variant == guest.variant()]
    assert kept
    scripts, written = [each.script for each in kept], [each.linux for each in kept]
    with hosts.here() as kernel:
        assert not list(differences(scripts, written, kernel.run(scripts)))
