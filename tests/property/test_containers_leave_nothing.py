"""Whatever a program does with groups and containers: what is locked is what is mapped, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from ioas.errors import KernelError
from ioas.host import PAGE_SIZE
from ioas.soft.vfio import Container, DeviceFile, GroupFile, VfioGroup
from ioas.uapi import vfio
from tests.support.group_client import ALL, LOSE, VADDR, GroupClient, program

IOVA = 0x10_0000
STEPS = 250
TYPES = (vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)


class Storm:
    """Random steps of one program on a machine with two groups of one and two functions."""

    def __init__(self, client: GroupClient, dice: Random) -> None:
        self.client = client
        self.dice = dice
        self.vaddr = client.caller.memory.map(8)
        self.bdfs = list(client.host.functions)

    def fd(self, *kinds: type) -> int:
        """A descriptor of a file of these kinds, or one that does not exist."""
        known = [fd for fd in self.client.fds if isinstance(self.client.file(fd), kinds)]
        return self.dice.choice(known or [999])

    def open(self) -> None:
        node = self.dice.choice(["/dev/vfio/vfio", "/dev/iommu", *map(self.client.group_of, self.bdfs)])
        self.client.open(node)

    def close(self) -> None:
        if self.client.fds:
            self.client.close(self.dice.choice(self.client.fds))

    def join(self) -> None:
        self.client.set_container(self.fd(GroupFile), self.dice.choice(self.client.fds or [999]))

    def leave(self) -> None:
        self.client.unset_container(self.fd(GroupFile))

    def choose(self) -> None:
        self.client.ioctl(self.fd(Container), vfio.VFIO_SET_IOMMU, self.dice.choice(TYPES))

    def give(self) -> None:
        self.client.device(self.fd(GroupFile), self.dice.choice(self.bdfs))

    def map(self) -> None:
        pages = self.dice.randrange(1, 9)
        flags = self.dice.choice((1, 3, 3, VADDR))
        self.client.map(self.fd(Container), self.vaddr, pages * PAGE_SIZE, self.iova(), flags)

    def unmap(self) -> None:
        if self.dice.random() < 0.2:
            self.client.unmap(self.fd(Container), 0, 0, self.dice.choice((ALL, ALL | LOSE)))
        else:
            self.client.unmap(self.fd(Container), self.iova(), self.dice.randrange(1, 9) * PAGE_SIZE)

    def iova(self) -> int:
        return IOVA + self.dice.randrange(32) * PAGE_SIZE

    def check(self) -> None:
        """What is locked is what containers have mapped; an owner has each group whose devices are used."""
        containers = {
            group.container for fd in self.client.fds if (group := self._group(fd)) is not None and group.container
        }
        drivers = [container.driver for container in containers if container.driver is not None]
        mapped = sum(dma.size for driver in drivers for dma in driver.mapper.maps)  # type: ignore[attr-defined]
        assert self.client.caller.memory.locked_pages == mapped // PAGE_SIZE
        for bdf in self.bdfs:
            device, group = self.client.host.devices[bdf], self.client.host.functions[bdf].requester.group
            assert not device.opens or (group is not None and group.claimed)

    def _group(self, fd: int) -> VfioGroup | None:
        file = self.client.file(fd)
        return (
            file.group if isinstance(file, GroupFile) else file.device.group if isinstance(file, DeviceFile) else None
        )


@pytest.mark.parametrize("seed", range(12))
def test_random_steps_leave_nothing(seed: int) -> None:
    with program("edu", "edu,addr=0000:05:00.0", "edu,addr=0000:05:00.1") as client:
        storm = Storm(client, Random(seed))
        weights: list[tuple[int, Callable[[], None]]] = [
            (3, storm.open),
            (2, storm.close),
            (4, storm.join),
            (1, storm.leave),
            (4, storm.choose),
            (3, storm.give),
            (12, storm.map),
            (6, storm.unmap),
        ]
        steps = [step for weight, step in weights for _ in range(weight)]
        done = 0
        for _ in range(STEPS):
            try:
                storm.dice.choice(steps)()
                done += 1
            except KernelError:
                pass
            storm.check()
        assert done > STEPS // 10
