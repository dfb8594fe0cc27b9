"""The world of one sequence of calls: units and devices, two processes with memory and files, iommufd contexts."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from ioas.errors import KernelError
from ioas.host import Capability
from ioas.soft.iommu import Requester, System, Unit, amd_unit, vtd_unit
from ioas.soft.iommufd import Context, Device
from tests.support.caller import FakeCaller, FakeFile
from tests.support.ram import Ram

if TYPE_CHECKING:
    from typing_extensions import Buffer

_CONTEXTS_MOST = 3
_LARGE = 1024
"""Pages of the memory that stands in large frames."""


class Machine:
    """What calls are made on. `caller` and `context` are those of the next call."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.calls = 0
        """How many calls were made."""
        self.system = system = System()
        self.requesters: list[Requester] = []
        for number, unit in enumerate((vtd_unit(system, scalable=True), vtd_unit(system, "dmar1"), amd_unit(system))):
            self._plug(unit, number)
        self.requesters.append(Requester(system, "0000:09:00.0", None, None))
        self.devices: list[Device] = []
        self.rams = [Ram(_LARGE, order=9), Ram(16), Ram(16)]
        self.callers = [FakeCaller(), FakeCaller((), memlock=64 * 4096)]
        for caller in self.callers:
            self._furnish(caller)
        self.caller = self.callers[0]
        self.contexts: list[Context] = []
        self.closed: list[Context] = []
        self.open()

    def _plug(self, unit: Unit, number: int) -> None:
        group = self.system.add_group()
        for function in range(2 if not number else 1):
            requester = Requester(self.system, f"0000:0{number + 1}:00.{function}", unit, group)
            requester.page_requests = not number
            requester.max_pasid_log2 = 20 if not number else 0
            self.requesters.append(requester)

    def _furnish(self, caller: FakeCaller) -> None:
        """The same addresses in every process: `large`, `data`, `scratch` and, without memory, `hole`."""
        self.large = caller.memory.map(_LARGE, at=0x7000_0000_0000, ram=self.rams[0])
        self.data = caller.memory.map(8, at=0x7100_0000_0000, ram=self.rams[1])
        self.scratch = caller.memory.map(6, at=0x7200_0000_0000)
        self.hole = self.data + 16 * 4096
        caller.memory.map(2, at=self.hole + 4 * 4096, ram=self.rams[2], write=False)
        for pages in (16, 4):
            caller.install(FakeFile(pages))
        caller.foreign.add(100)

    @property
    def context(self) -> Context:
        """The iommufd that is asked: mostly the first that is open."""
        return self.contexts[0]

    def ioctl(self, request: int, argument: int | Buffer) -> None:
        """The caller's ioctl on the iommufd. Raises KernelError."""
        self.calls += 1
        self.context.ioctl(self.caller, request, argument)

    def open(self) -> None:
        """Another iommufd, which the next calls ask. Raises KernelError(ENOMEM) when that is to fail."""
        if len(self.contexts) < _CONTEXTS_MOST:
            self.contexts.insert(0, Context(self.system, test=True, vfio=self.random.randrange(4) == 0))

    def close(self) -> None:
        """Close the iommufd that is asked, if another is there."""
        if len(self.contexts) > 1:
            self.closed.append(self.contexts.pop(0))
            self.closed[-1].close()

    def turn(self) -> None:
        """Let the next calls ask another iommufd."""
        self.contexts.append(self.contexts.pop(0))

    def grant(self) -> None:
        """Change what the caller may."""
        capability = list(Capability)[self.random.randrange(len(Capability))]
        self.caller.capabilities ^= {capability}
        self.caller.memory.memlock = (None, 0, 4096, 16 * 4096, 1 << 40)[self.random.randrange(5)]

    def end(self) -> dict[str, int]:
        """Close everything; what is left although nothing should be."""
        for caller in self.callers:
            self.system.failures.arm(caller.pid, 0)
        for caller in self.callers:
            caller.close_all()
        for device in self.devices:
            device.unbind()
        for context in self.contexts:
            context.close()
        for requester in self.requesters:
            with suppress(KernelError):
                requester.remove()
        return {name: number for name, number in self._held().items() if number}

    def _held(self) -> dict[str, int]:
        system = self.system
        return {
            "objects": sum(len(list(context.objects)) for context in [*self.contexts, *self.closed]),
            "windows": sum(len(context.windows.by_offset) for context in [*self.contexts, *self.closed]),
            "frames": system.memory.held_frames,
            "tables": system.memory.table_frames,
            "pinned": sum(caller.memory.pinned_pages for caller in self.callers),
            "locked": sum(caller.memory.locked_pages for caller in self.callers),
            "charged": system.accounting.locked(self.caller.uid),
            "groups": len(system.groups),
            "pages": sum(not ram.idle for ram in self.rams),
        }
