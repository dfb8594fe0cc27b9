"""Interrupts through the API: eventfds for poll, select and asyncio (`ioas.api.irq`)."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator

import pytest

from ioas.errors import InvalidArgument, KernelError, UsageError
from ioas.host import PAGE_SIZE
from tests.support.room import (
    DEVICE_BUFFER,
    DMA_INTERRUPT,
    DMA_TO_MEMORY,
    IOVA,
    Room,
    acknowledge,
    opened,
    raise_interrupt,
    start_dma,
)


@pytest.fixture
def room() -> Iterator[Room]:
    with opened() as room:
        yield room


def test_an_interrupt_is_waited_for(room: Room) -> None:
    with room.device.irq("msi") as irq:
        raise_interrupt(room)
        raise_interrupt(room)
        assert irq.wait(timeout=10) == 2
        assert acknowledge(room) == 1
        assert irq.pending() == 0


def test_waiting_ends_with_the_timeout(room: Room) -> None:
    with room.device.irq("msi") as irq, pytest.raises(TimeoutError, match=r"msi 0.*0\.01 s"):
        irq.wait(timeout=0.01)


def test_an_interrupt_is_a_file_for_select_and_poll(room: Room) -> None:
    with room.device.irq("msi") as irq:
        assert select.select([irq], [], [], 0)[0] == []
        raise_interrupt(room)
        assert select.select([irq], [], [], 10)[0] == [irq]
        poll = select.poll()
        poll.register(irq, select.POLLIN)
        assert poll.poll(0) == [(irq.fileno(), select.POLLIN)]


def test_asyncio_waits_for_the_end_of_a_dma(room: Room) -> None:
    async def transfer() -> int:
        with room.device.irq("msi") as irq:
            start_dma(room.registers, DEVICE_BUFFER, IOVA, 8, DMA_TO_MEMORY | DMA_INTERRUPT)
            async with asyncio.timeout(10):
                return await irq.wait_async()

    with room.space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as dma:
        dma.view[:8] = b"unchange"
        assert asyncio.run(transfer()) == 1
        assert dma.view[:8] == bytes(8)


def test_a_wait_that_asyncio_cancels_leaves_nothing(room: Room) -> None:
    async def cancelled() -> None:
        with room.device.irq("msi") as irq:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await irq.wait_async()

    asyncio.run(cancelled())


def test_a_level_masks_itself_until_it_is_unmasked(room: Room) -> None:
    with room.device.irq("intx") as irq:
        raise_interrupt(room)
        assert irq.wait(timeout=10) == 1
        raise_interrupt(room, 2)
        assert irq.pending() == 0
        irq.unmask()  # still raised: fires again
        assert irq.wait(timeout=10) == 1
        assert acknowledge(room) == 3
        irq.unmask()
        assert irq.pending() == 0
        irq.mask()
        raise_interrupt(room)
        assert irq.pending() == 0
        irq.unmask()
        assert irq.wait(timeout=10) == 1
        acknowledge(room)


def test_an_interrupt_can_be_fired_by_hand(room: Room) -> None:
    with room.device.irq("msi") as irq:
        irq.trigger()
        assert irq.wait(timeout=10) == 1


def test_what_a_device_does_not_have_is_refused(room: Room) -> None:
    assert room.device.irq_info("msi").count == 1
    assert room.device.irq_info("msix").count == 0
    with pytest.raises(InvalidArgument):
        room.device.irq("msix")
    with pytest.raises(InvalidArgument):
        room.device.irqs("msi", 2)
    with pytest.raises(UsageError, match="at least one"):
        room.device.irqs("msi", 0)
    with pytest.raises(UsageError, match="kinds are"):
        room.device.irq("nmi")  # type: ignore[arg-type]
    with room.device.irq("msi") as irq, pytest.raises(KernelError):
        irq.mask()


def test_one_kind_of_interrupt_is_enabled_at_a_time(room: Room) -> None:
    with room.device.irq("msi"), pytest.raises(InvalidArgument):
        room.device.irq("intx")
    with room.device.irq("intx"):
        pass


def test_interrupts_come_as_a_sequence(room: Room) -> None:
    with room.device.irqs("msi", 1) as irqs:
        assert [irq.vector for irq in irqs] == [0]
        assert (len(irqs), irqs[0].vector) == (1, 0)
        raise_interrupt(room)
        assert irqs[0].wait(timeout=10) == 1


def test_a_closed_interrupt_says_so_and_is_disabled(room: Room) -> None:
    irq = room.device.irq("msi")
    irq.close()
    irq.close()
    for use in (irq.fileno, irq.wait, irq.pending, irq.trigger):
        with pytest.raises(UsageError, match="the interrupt is closed"):
            use()
    raise_interrupt(room)
    acknowledge(room)


def test_closing_the_device_first_is_fine() -> None:
    with opened() as room:
        irq = room.device.irq("msi")
        room.device.close()
        irq.close()
