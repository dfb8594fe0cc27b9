"""Binding, attaching, detaching and closing a cdev (VFIO's device_cdev.c and iommufd.c, 7.3)."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from errno import E2BIG, EBADF, EBADFD, EBUSY, EFAULT, EINVAL, ENOENT, ENOSPC, EPERM

import pytest

from ioas.uapi import iommufd, vfio
from tests.support.vfio_client import CONFIG, Client, bound, refused, running


@pytest.fixture
def client() -> Iterator[Client]:
    with running() as client:
        yield client


@pytest.mark.parametrize(
    "request_number",
    [
        vfio.VFIO_DEVICE_GET_INFO,
        vfio.VFIO_DEVICE_GET_REGION_INFO,
        vfio.VFIO_DEVICE_GET_IRQ_INFO,
        vfio.VFIO_DEVICE_SET_IRQS,
        vfio.VFIO_DEVICE_RESET,
        vfio.VFIO_DEVICE_FEATURE,
        vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT,
        vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT,
        vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
        0x1234,
    ],
)
def test_before_bind_every_ioctl_is_einval_even_an_unknown_one(client: Client, request_number: int) -> None:
    with refused(EINVAL):
        client.device.ioctl(client.caller, request_number, bytearray(64))


def test_before_bind_reads_writes_and_mmaps_are_einval(client: Client) -> None:
    with refused(EINVAL):
        client.read(CONFIG, 4)
    with refused(EINVAL):
        client.read(CONFIG, 0)
    with refused(EINVAL):
        client.write(CONFIG, b"ab")
    with refused(EINVAL):
        client.device.mmap(client.caller, 4096, 3, mmap.MAP_SHARED, 0)


def test_bind_returns_the_id_of_a_device_object(client: Client) -> None:
    device = client.bind()
    with refused(EBUSY):  # it is there, and in use
        client.call(iommufd.IOMMU_DESTROY, iommufd.iommu_destroy(size=8, id=device), client.iommufd)


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"argsz": 15}, EINVAL),
        ({"argsz": 0}, EINVAL),
        ({"flags": 2}, EINVAL),
        ({"iommufd": -1}, EINVAL),
        ({"iommufd": -2}, EINVAL),
        ({"iommufd": 99999}, EBADF),
        ({"flags": vfio.VFIO_DEVICE_BIND_FLAG_TOKEN}, EFAULT),
    ],
)
def test_bind_refuses_wrong_fields(client: Client, fields: dict[str, int], number: int) -> None:
    values = {"argsz": 24, "iommufd": client.iommu_fd} | fields
    with refused(number):
        client.call(vfio.VFIO_DEVICE_BIND_IOMMUFD, vfio.vfio_device_bind_iommufd(**values))


def test_bind_takes_only_an_iommufd(client: Client) -> None:
    other = client.caller.install(client.open("/dev/vfio/devices/vfio0"))
    plain = os.eventfd(0)
    for fd in (other, plain):
        with refused(EBADFD):
            client.bind(fd=fd)
        os.close(fd)


def test_bind_refuses_a_tail_that_is_not_zero_before_it_looks_at_anything_else(client: Client) -> None:
    request = vfio.vfio_device_bind_iommufd(argsz=32, flags=4, iommufd=client.iommu_fd)
    with refused(E2BIG):
        client.call(vfio.VFIO_DEVICE_BIND_IOMMUFD, request, tail=b"\0\0\0\0\0\0\0\1")
    with refused(EINVAL):
        client.call(vfio.VFIO_DEVICE_BIND_IOMMUFD, request, tail=bytes(8))


def test_bind_takes_the_first_version_of_the_structure(client: Client) -> None:
    request = vfio.vfio_device_bind_iommufd(argsz=16, iommufd=client.iommu_fd, token_uuid_ptr=0xDEAD)
    assert client.call(vfio.VFIO_DEVICE_BIND_IOMMUFD, request).out_devid


def test_bind_reads_a_token_and_refuses_it_on_a_device_without_virtual_functions(client: Client) -> None:
    token = ctypes.create_string_buffer(16)
    request = vfio.vfio_device_bind_iommufd(
        argsz=24,
        flags=vfio.VFIO_DEVICE_BIND_FLAG_TOKEN,
        iommufd=client.iommu_fd,
        token_uuid_ptr=ctypes.addressof(token),
    )
    with refused(EINVAL):
        client.call(vfio.VFIO_DEVICE_BIND_IOMMUFD, request)


def test_a_device_is_bound_once_whatever_file_it_is_opened_through(client: Client) -> None:
    second = client.open("/dev/vfio/devices/vfio0")
    client.bind()
    for file in (client.device, second):
        with refused(EINVAL):
            client.bind(file)
    with refused(EINVAL):
        client.call(vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info(argsz=24), second)
    second.close()
    assert client.call(vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info(argsz=24)).num_regions == 9


def test_bind_undoes_everything_when_the_answer_cannot_be_written(client: Client) -> None:
    request = bytes(vfio.vfio_device_bind_iommufd(argsz=24, iommufd=client.iommu_fd))
    with refused(EFAULT):
        client.device.ioctl(client.caller, vfio.VFIO_DEVICE_BIND_IOMMUFD, request)
    assert client.bind()


def test_a_group_that_another_iommufd_owns_is_eperm(client: Client) -> None:
    client.bind()
    other = client.open("/dev/iommu")
    group = client.host.devices["0000:01:00.0"].function.requester.group
    assert group is not None
    with refused(EPERM):
        group.claim(other)
    other.close()


def test_closing_the_file_unbinds_at_once(client: Client) -> None:
    second = client.open("/dev/vfio/devices/vfio0")
    client.bind()
    client.device.close()
    assert client.bind(second)
    second.close()
    second.close()


def test_a_bound_device_keeps_its_iommufd_alive_after_that_is_closed(client: Client) -> None:
    client.bind()
    ioas = client.ioas()
    os.close(client.iommu_fd)
    client.caller.before_call()
    assert client.attach(ioas)
    client.iommu_fd = os.eventfd(0)


def test_attach_returns_the_page_table_and_attaching_again_replaces_it() -> None:
    with bound() as client:
        first, second = client.ioas(), client.ioas()
        table = client.attach(first)
        assert table not in (first, second)
        assert client.attach(first) == table
        replaced = client.attach(second)
        assert replaced != table
        with refused(EBUSY):
            client.call(iommufd.IOMMU_DESTROY, iommufd.iommu_destroy(size=8, id=second), client.iommufd)
        client.detach()
        client.detach()


def test_attach_to_nothing_is_enoent_and_changes_nothing() -> None:
    with bound() as client:
        for pt_id in (0, 0x7777, 0xFFFF_FFFF):
            with refused(ENOENT):
                client.attach(pt_id)
        table = client.attach(client.ioas())
        with refused(ENOENT):
            client.attach(0x7777)
        assert client.host.functions["0000:01:00.0"].requester.domain is not None
        assert table


def test_attach_and_detach_check_argsz_and_flags() -> None:
    with bound() as client:
        ioas = client.ioas()
        attach, detach = vfio.vfio_device_attach_iommufd_pt, vfio.vfio_device_detach_iommufd_pt
        for request in (
            attach(argsz=11, pt_id=ioas),
            attach(argsz=16, flags=2, pt_id=ioas),
            attach(argsz=12, flags=vfio.VFIO_DEVICE_ATTACH_PASID, pt_id=ioas),
        ):
            with refused(EINVAL):
                client.call(vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, request)
        for wrong in (detach(argsz=7), detach(argsz=12, flags=2), detach(argsz=8, flags=vfio.VFIO_DEVICE_DETACH_PASID)):
            with refused(EINVAL):
                client.call(vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, wrong)


def test_a_pasid_that_the_device_lacks_is_refused_and_detaching_one_does_nothing() -> None:
    with bound() as client:
        ioas = client.ioas()
        with refused(EINVAL):
            client.attach(ioas, vfio.VFIO_DEVICE_ATTACH_PASID, 1)
        with refused(ENOSPC):
            client.attach(ioas, vfio.VFIO_DEVICE_ATTACH_PASID, 1 << 31)
        client.detach(vfio.VFIO_DEVICE_DETACH_PASID, 1)


def test_pasid_0_is_dma_without_pasid_so_a_plain_attach_is_then_ebusy() -> None:
    with bound() as client:
        ioas = client.ioas()
        table = client.attach(ioas, vfio.VFIO_DEVICE_ATTACH_PASID, 0)
        with refused(EBUSY):
            client.attach(ioas)
        assert client.attach(ioas, vfio.VFIO_DEVICE_ATTACH_PASID, 0) == table
        client.detach()  # knows nothing of it, as in 7.3
        assert client.host.functions["0000:01:00.0"].requester.domain is not None
        client.detach(vfio.VFIO_DEVICE_DETACH_PASID, 0)
        assert client.host.functions["0000:01:00.0"].requester.domain is None


def test_attach_undoes_itself_when_the_answer_cannot_be_written() -> None:
    with bound() as client:
        request = bytes(vfio.vfio_device_attach_iommufd_pt(argsz=16, pt_id=client.ioas()))
        with refused(EFAULT):
            client.device.ioctl(client.caller, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, request)
        assert client.host.functions["0000:01:00.0"].requester.domain is None


def test_closing_the_file_detaches() -> None:
    with bound() as client:
        client.attach(client.ioas())
        client.device.close()
        assert client.host.functions["0000:01:00.0"].requester.domain is None


def test_pointers_to_nowhere_are_efault(client: Client) -> None:
    with refused(EFAULT):
        client.device.ioctl(client.caller, vfio.VFIO_DEVICE_BIND_IOMMUFD, 8)
    client.bind()
    for request in (vfio.VFIO_DEVICE_GET_INFO, vfio.VFIO_DEVICE_SET_IRQS, vfio.VFIO_DEVICE_FEATURE):
        with refused(EFAULT):
            client.device.ioctl(client.caller, request, 8)
        with refused(EFAULT):
            client.device.ioctl(client.caller, request, bytearray(4))
