"""Page tables through the API, on the software host; tests/kernel has the same on the running kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ioas.api import SoftHost
from ioas.api.host import BaseHost
from tests.support.page_tables import check_dirty_pages, check_page_requests


@pytest.mark.parametrize("check", [check_dirty_pages, check_page_requests])
def test_page_tables_tell_what_devices_write_and_ask_for(check: Callable[[BaseHost], None]) -> None:
    with SoftHost(iommufd_test=True) as host:
        check(host)
