"""IOMMU_VFIO_IOAS: which IOAS stands for the container."""

from __future__ import annotations

import pytest

from ioas.errors import NoDevice, NotFound, NotSupported
from ioas.uapi import iommufd as uapi
from tests.support.iommufd import Iommufd


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


def vfio_ioas(iommufd: Iommufd, op: int, ioas: int = 0) -> int:
    return iommufd.call(uapi.IOMMU_VFIO_IOAS, uapi.iommu_vfio_ioas(op=op, ioas_id=ioas)).ioas_id


GET, SET, CLEAR = uapi.IOMMU_VFIO_IOAS_GET, uapi.IOMMU_VFIO_IOAS_SET, uapi.IOMMU_VFIO_IOAS_CLEAR


def test_there_is_none_until_one_is_set(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    with pytest.raises(NoDevice):
        vfio_ioas(iommufd, GET)
    vfio_ioas(iommufd, SET, ioas)
    assert vfio_ioas(iommufd, GET) == ioas
    vfio_ioas(iommufd, CLEAR)
    with pytest.raises(NoDevice):
        vfio_ioas(iommufd, GET)


def test_it_goes_with_the_ioas(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    vfio_ioas(iommufd, SET, ioas)
    iommufd.destroy(ioas)
    with pytest.raises(NoDevice):
        vfio_ioas(iommufd, GET)


def test_it_is_an_ioas(iommufd: Iommufd) -> None:
    with pytest.raises(NotFound):
        vfio_ioas(iommufd, SET, 1)


def test_other_operations_and_reserved_fields_are_not_supported(iommufd: Iommufd) -> None:
    with pytest.raises(NotSupported):
        vfio_ioas(iommufd, 3)
    command = uapi.iommu_vfio_ioas(op=CLEAR)
    setattr(command, "__reserved", 1)
    with pytest.raises(NotSupported):
        iommufd.call(uapi.IOMMU_VFIO_IOAS, command)
