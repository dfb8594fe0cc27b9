"""Closing in any order: files go with their last descriptor, and what was held goes with the files."""

from __future__ import annotations

import os

import pytest

from ioas.api.host import BaseHost
from ioas.errors import Busy, InvalidArgument
from ioas.host import PAGE_SIZE
from ioas.testing.suite.edu import IOVA


def test_a_bound_device_works_when_its_iommufd_is_closed(ioas_host: BaseHost, ioas_bdf: str) -> None:
    iommufd, device = ioas_host.iommufd(), ioas_host.device(ioas_bdf)
    device.bind(iommufd)
    iommufd.close()
    assert len(device.bar(0).read(0, 4)) == 4
    device.close()


def test_mappings_go_with_the_last_file_that_holds_them(ioas_host: BaseHost, ioas_bdf: str) -> None:
    iommufd, device = ioas_host.iommufd(), ioas_host.device(ioas_bdf)
    device.bind(iommufd)
    space = iommufd.ioas()
    device.attach(space)
    buffer = space.alloc(16 * PAGE_SIZE, writable=True, iova=IOVA)
    device.bus_master = True
    iommufd.close()
    device.close()
    buffer.close()


def test_a_device_is_free_as_soon_as_it_is_closed(ioas_host: BaseHost, ioas_bdf: str) -> None:
    with ioas_host.iommufd() as iommufd:
        for _ in range(3):
            with ioas_host.device(ioas_bdf) as device:
                device.bind(iommufd)
                with iommufd.ioas() as space:
                    device.attach(space)
                    device.detach()


def test_a_device_can_be_bound_elsewhere_when_it_is_closed(ioas_host: BaseHost, ioas_bdf: str) -> None:
    for _ in range(2):
        with ioas_host.iommufd() as iommufd, ioas_host.device(ioas_bdf) as device:
            device.bind(iommufd)


def test_a_duplicate_keeps_the_device(ioas_host: BaseHost, ioas_bdf: str) -> None:
    with ioas_host.iommufd() as iommufd:
        device = ioas_host.device(ioas_bdf)
        device.bind(iommufd)
        duplicate = os.dup(device.fileno())
        device.close()
        with ioas_host.device(ioas_bdf) as second, pytest.raises((Busy, InvalidArgument)):
            second.bind(iommufd)
        os.close(duplicate)
        with ioas_host.device(ioas_bdf) as third:
            third.bind(iommufd)


def test_interrupts_go_with_the_device(ioas_host: BaseHost, ioas_bdf: str) -> None:
    with ioas_host.iommufd() as iommufd:
        device = ioas_host.device(ioas_bdf)
        device.bind(iommufd)
        irq = device.irq("intx" if device.irq_info("intx").count else "msi")
        device.close()
        assert irq.pending() == 0
        irq.close()


def test_an_eventfd_may_go_before_its_interrupt(ioas_host: BaseHost, ioas_bdf: str) -> None:
    with ioas_host.iommufd() as iommufd, ioas_host.device(ioas_bdf) as device:
        device.bind(iommufd)
        irq = device.irq("msi" if device.irq_info("msi").count else "intx")
        irq.release()
        irq.close()


def test_closing_the_host_closes_what_is_still_open(ioas_host: BaseHost, ioas_bdf: str) -> None:
    iommufd, device = ioas_host.iommufd(), ioas_host.device(ioas_bdf)
    device.bind(iommufd)
    device.attach(iommufd.ioas())
    irq = device.irq("msi" if device.irq_info("msi").count else "intx")
    ioas_host.close()
    ioas_host.close()
    irq.close()
    assert (device.closed, iommufd.closed, ioas_host.closed) == (True, True, True)


def test_a_file_that_is_forgotten_is_closed_with_a_warning(ioas_host: BaseHost) -> None:
    with pytest.warns(ResourceWarning, match="unclosed <Iommufd /dev/iommu>"):
        ioas_host.iommufd()
