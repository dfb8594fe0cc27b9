"""Interrupts: eventfds for a thread that waits, for poll and for asyncio; messages and levels."""

from __future__ import annotations

import asyncio
import select
import threading

import pytest

from ioas.api import Device, Ioas
from ioas.api.irq import IrqKind
from ioas.errors import InvalidArgument, KernelError, UsageError
from ioas.host import PAGE_SIZE
from ioas.testing.suite.edu import BUFFER, DMA_DONE, DMA_INTERRUPT, DMA_TO_MEMORY, IOVA, PATIENCE, Edu
from ioas.uapi.vfio import VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_MASKABLE


def test_an_interrupt_is_waited_for(edu: Edu) -> None:
    with edu.device.irq("msi") as irq:
        assert irq.pending() == 0
        edu.interrupt()
        assert irq.wait(PATIENCE) == 1
        edu.interrupt(2)
        assert irq.wait(PATIENCE) == 1
        assert irq.pending() == 0
        assert edu.acknowledge() == 3


def test_waiting_ends_with_the_timeout(edu: Edu) -> None:
    with edu.device.irq("msi") as irq, pytest.raises(TimeoutError, match=r"msi 0.*0\.01 s"):
        irq.wait(0.01)


def test_an_interrupt_is_a_file_for_select_and_poll(edu: Edu) -> None:
    with edu.device.irq("msi") as irq:
        assert select.select([irq], [], [], 0)[0] == []
        edu.interrupt()
        assert select.select([irq], [], [], PATIENCE)[0] == [irq]
        poll = select.poll()
        poll.register(irq, select.POLLIN)
        assert poll.poll(0) == [(irq.fileno(), select.POLLIN)]
        edu.acknowledge()


def test_a_thread_waits_while_another_works(edu: Edu, ioas_space: Ioas) -> None:
    counts: list[int] = []
    with edu.device.irq("msi") as irq, ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as buffer:
        buffer.view[:4] = b"kept"
        waiter = threading.Thread(target=lambda: counts.append(irq.wait(PATIENCE)))
        waiter.start()
        edu.start(BUFFER, IOVA + 16, 16, DMA_TO_MEMORY | DMA_INTERRUPT)
        waiter.join()
        assert counts == [1]
        assert edu.acknowledge() == DMA_DONE
        assert bytes(buffer.view[:4]) == b"kept"


def test_asyncio_waits_for_the_end_of_a_transfer(edu: Edu, ioas_space: Ioas) -> None:
    async def transfer() -> int:
        with edu.device.irq("msi") as irq:
            edu.start(BUFFER, IOVA, 8, DMA_TO_MEMORY | DMA_INTERRUPT)
            async with asyncio.timeout(PATIENCE):
                return await irq.wait_async()

    with ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA):
        assert asyncio.run(transfer()) == 1
        assert edu.acknowledge() == DMA_DONE


def test_a_wait_that_asyncio_cancels_leaves_nothing(edu: Edu) -> None:
    async def cancelled() -> None:
        with edu.device.irq("msi") as irq:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await irq.wait_async()

    asyncio.run(cancelled())


def test_a_level_masks_itself_until_it_is_unmasked(edu: Edu) -> None:
    with edu.device.irq("intx") as irq:
        edu.interrupt()
        assert irq.wait(PATIENCE) == 1
        edu.interrupt(2)
        assert irq.pending() == 0
        irq.unmask()  # still raised: fires again
        assert irq.wait(PATIENCE) == 1
        assert edu.acknowledge() == 3
        irq.unmask()
        assert irq.pending() == 0


def test_a_masked_level_is_told_when_it_is_unmasked(edu: Edu) -> None:
    with edu.device.irq("intx") as irq:
        irq.mask()
        edu.interrupt()
        assert irq.pending() == 0
        irq.unmask()
        assert irq.wait(PATIENCE) == 1
        edu.acknowledge()
        irq.unmask()
        assert irq.pending() == 0


def test_an_interrupt_can_be_fired_by_hand(ioas_device: Device) -> None:
    kind: IrqKind = "msi" if ioas_device.irq_info("msi").count else "intx"
    with ioas_device.irq(kind) as irq:
        irq.trigger()
        assert irq.wait(PATIENCE) == 1


def test_a_device_tells_how_its_interrupts_behave(edu: Edu) -> None:
    level, message = edu.device.irq_info("intx"), edu.device.irq_info("msi")
    assert (level.count, message.count, edu.device.irq_info("msix").count) == (1, 1, 0)
    behaves = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED
    assert level.flags & behaves == behaves
    assert message.flags & behaves == VFIO_IRQ_INFO_EVENTFD


def test_what_a_device_does_not_have_is_refused(edu: Edu) -> None:
    with pytest.raises(InvalidArgument):
        edu.device.irq("msix")
    with pytest.raises(InvalidArgument):
        edu.device.irqs("msi", 2)
    with pytest.raises(UsageError, match="at least one"):
        edu.device.irqs("msi", 0)
    with pytest.raises(UsageError, match="kinds are"):
        edu.device.irq("nmi")  # type: ignore[arg-type]
    with edu.device.irq("msi") as irq:
        for use in (irq.mask, irq.unmask):
            with pytest.raises(KernelError):
                use()


def test_one_kind_of_interrupt_is_enabled_at_a_time(edu: Edu) -> None:
    with edu.device.irq("msi"), pytest.raises(InvalidArgument):
        edu.device.irq("intx")
    with edu.device.irq("intx"), pytest.raises(InvalidArgument):
        edu.device.irq("msi")


def test_a_kind_can_be_enabled_again(edu: Edu) -> None:
    for _ in range(3):
        with edu.device.irqs("msi", 1) as irqs:
            assert [irq.vector for irq in irqs] == [0]
            edu.interrupt()
            assert irqs[0].wait(PATIENCE) == 1
            edu.acknowledge()


def test_a_closed_interrupt_says_so(edu: Edu) -> None:
    irq = edu.device.irq("msi")
    irq.close()
    irq.close()
    for use in (irq.fileno, irq.wait, irq.pending, irq.trigger):
        with pytest.raises(UsageError, match="the interrupt is closed"):
            use()
    edu.interrupt()
    edu.acknowledge()
