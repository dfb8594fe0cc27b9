"""Fixtures of the suite."""

from __future__ import annotations

import pytest

from ioas.api import Device
from ioas.testing.suite.edu import IDS, Edu


@pytest.fixture
def edu(ioas_device: Device) -> Edu:
    """The device, as an edu that may do DMA; skips for any other device."""
    config = ioas_device.config
    found = config.read16(0), config.read16(2)
    if found != IDS:
        pytest.skip(f"needs an edu device, and {ioas_device.bdf} is {found[0]:04x}:{found[1]:04x}")
    return Edu(ioas_device)
