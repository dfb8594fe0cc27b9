"""Migration of one device: its state among those of the kernel's machine, and the transfer under way.

A kernel's driver for a device that migrates (mtty, mlx5) does for its hardware what stands here for every model that
declares it: steps along the arcs of `migration_states`, stops and lets go the function, saves and loads its state.
Everything is guarded by the function's lock, for a reset, which ends a migration, comes with that held.
"""

from __future__ import annotations

from errno import EINVAL, EIO
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.pci import migration as states
from ioas.soft.vfio.migration_files import ResumingFile, SavingFile, TransferFile
from ioas.soft.vfio.migration_states import (
    ERROR,
    HAS_P2P,
    HAS_PRE_COPY,
    HAS_STOP_COPY,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    SAVING,
    STOP,
    STOP_COPY,
    next_state,
)

if TYPE_CHECKING:
    from ioas.soft.pci import Function
    from ioas.soft.pci.model_timers import Pace

_PACES: dict[int, Pace] = {
    RUNNING: "running",
    PRE_COPY: "running",
    RUNNING_P2P: "quiet",
    PRE_COPY_P2P: "quiet",
    STOP: "stopped",
    STOP_COPY: "stopped",
    RESUMING: "stopped",
}


class DeviceMigration:
    """The migration of one function."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.state = RUNNING
        """One of VFIO_DEVICE_STATE_*."""
        self.flags_are_output = False
        """The program has asked for VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2."""
        self._transfer: SavingFile | ResumingFile | None = None
        function.config.watch_reset(self.end)

    @property
    def flags(self) -> int:
        """What the model can, as VFIO_MIGRATION_*; 0: it does not migrate."""
        declared = self.function.migrates
        if declared is None:
            return 0
        return HAS_STOP_COPY | (HAS_P2P if declared.p2p else 0) | (HAS_PRE_COPY if declared.pre_copy else 0)

    def saved(self) -> bytes:
        """The state now. Raises KernelError(EIO) where the model cannot tell it."""
        try:
            return states.save(self.function)
        except states.StateError as error:
            raise refuse(EIO, str(error), "device", str(self.function)) from error

    def change(self, target: int) -> TransferFile | None:
        """Go to state `target`; the file of a transfer that begins there.

        Raises KernelError: EINVAL for a way that does not exist, and for a state that is not whole; EIO where the model
        cannot tell or take its state. The device is then where it has come to on its way, or in ERROR.
        """
        with self.function.lock:
            begun: TransferFile | None = None
            while self.state != target:
                step = next_state(self.flags, self.state, target)
                begun = self._step(step)
                self.state = step
            return begun

    def _step(self, step: int) -> TransferFile | None:
        was = self.state
        if was == RESUMING:
            self._load()
        self.function.standstill.change(_PACES[step])
        try:
            begun = self._begin(was, step)
        except states.StateError as error:
            self.function.standstill.change(_PACES[was])
            if was not in SAVING:
                self._end_transfer()
            raise refuse(EIO, str(error), "device", str(self.function)) from error
        if self._transfer is not None and step not in SAVING and step != RESUMING:
            self._end_transfer()
        return begun

    def _begin(self, was: int, step: int) -> TransferFile | None:
        """Begin or complete a transfer, where the arc does. Raises StateError."""
        if step == RESUMING:
            self._transfer = ResumingFile(self)
            return self._transfer
        if step not in SAVING:
            return None
        if was not in SAVING:
            self._transfer = SavingFile(self)
        if isinstance(self._transfer, SavingFile):
            if step == STOP_COPY:
                self._transfer.complete()
            elif was not in SAVING:
                self._transfer.begin()
        return self._transfer if was not in SAVING else None

    def _load(self) -> None:
        """Leave RESUMING with what has come."""
        incoming = self._transfer
        if not isinstance(incoming, ResumingFile) or incoming.state is None or incoming.broken_off:
            raise refuse(EINVAL, "the state that was written is not whole", "device", str(self.function))
        try:
            incoming.state.load()
        except states.StateError as error:
            self.state = ERROR
            self._end_transfer()
            raise refuse(EIO, str(error), "device", str(self.function)) from error

    def _end_transfer(self) -> None:
        if self._transfer is not None:
            self._transfer.finish()
            self._transfer = None

    def end(self) -> None:
        """The function has been reset: it runs, and what was transferred is of no use any more."""
        with self.function.lock:
            self._end_transfer()
            self.state = RUNNING
            self.function.standstill.change("running")

    def close(self) -> None:
        """The device is opened anew, or closed."""
        self.end()
        self.flags_are_output = False
