"""Page tables through the API on the running kernel: dirty pages and page requests, by the kernel's mock devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import ioas
from ioas.api.host import BaseHost
from ioas.errors import InvalidArgument, NotSupported
from tests.support.kernel_host import edu_address
from tests.support.page_tables import check_dirty_pages, check_page_requests


@pytest.mark.parametrize("check", [check_dirty_pages, check_page_requests])
def test_page_tables_tell_what_devices_write_and_ask_for(check: Callable[[BaseHost], None]) -> None:
    with ioas.KernelHost() as host:
        check(host)


def test_what_the_iommu_in_front_of_a_device_cannot_do_is_refused_by_its_name() -> None:
    with ioas.KernelHost() as host, host.iommufd() as iommufd, host.device(edu_address(host)) as device:
        device.bind(iommufd)
        space = iommufd.ioas()
        with pytest.raises(NotSupported, match="does not have what was asked for"):
            iommufd.hwpt(device, space, dirty=True)
        with pytest.raises(InvalidArgument):
            device.attach(space, pasid=1)
