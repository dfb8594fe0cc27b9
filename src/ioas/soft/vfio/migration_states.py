"""The states of a device that is migrated, and the way from one to another (vfio_mig_get_next_state, 7.3).

A program asks for any state; the device goes there by arcs that drivers know. `NEXT` says the first step of each way,
for a device that has all states; what a device lacks is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from errno import EINVAL

from ioas.errors import refuse
from ioas.uapi import vfio as uapi

ERROR = uapi.VFIO_DEVICE_STATE_ERROR
PRE_COPY = uapi.VFIO_DEVICE_STATE_PRE_COPY
PRE_COPY_P2P = uapi.VFIO_DEVICE_STATE_PRE_COPY_P2P
RESUMING = uapi.VFIO_DEVICE_STATE_RESUMING
RUNNING = uapi.VFIO_DEVICE_STATE_RUNNING
RUNNING_P2P = uapi.VFIO_DEVICE_STATE_RUNNING_P2P
STOP = uapi.VFIO_DEVICE_STATE_STOP
STOP_COPY = uapi.VFIO_DEVICE_STATE_STOP_COPY
HAS_P2P = uapi.VFIO_MIGRATION_P2P
HAS_PRE_COPY = uapi.VFIO_MIGRATION_PRE_COPY
HAS_STOP_COPY = uapi.VFIO_MIGRATION_STOP_COPY

NAMES = {
    ERROR: "ERROR",
    STOP: "STOP",
    RUNNING: "RUNNING",
    STOP_COPY: "STOP_COPY",
    RESUMING: "RESUMING",
    RUNNING_P2P: "RUNNING_P2P",
    PRE_COPY: "PRE_COPY",
    PRE_COPY_P2P: "PRE_COPY_P2P",
}
SAVING = frozenset((PRE_COPY, PRE_COPY_P2P, STOP_COPY))
"""These share one transfer."""

_NEEDS = {
    STOP: HAS_STOP_COPY,
    RUNNING: HAS_STOP_COPY,
    STOP_COPY: HAS_STOP_COPY,
    RESUMING: HAS_STOP_COPY,
    RUNNING_P2P: HAS_STOP_COPY | HAS_P2P,
    PRE_COPY: HAS_STOP_COPY | HAS_PRE_COPY,
    PRE_COPY_P2P: HAS_STOP_COPY | HAS_P2P | HAS_PRE_COPY,
}
"""What a device must have for each state. ERROR is no state that can be asked for."""

_TARGETS = (STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P)
_ROWS = {
    STOP: (STOP, RUNNING_P2P, STOP_COPY, RESUMING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P),
    RUNNING: (RUNNING_P2P, RUNNING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P, PRE_COPY, RUNNING_P2P),
    STOP_COPY: (STOP, STOP, STOP_COPY, STOP, STOP, ERROR, ERROR),
    RESUMING: (STOP, STOP, STOP, RESUMING, STOP, STOP, STOP),
    RUNNING_P2P: (STOP, RUNNING, STOP, STOP, RUNNING_P2P, RUNNING, PRE_COPY_P2P),
    PRE_COPY: (RUNNING, RUNNING, PRE_COPY_P2P, RUNNING, RUNNING, PRE_COPY, PRE_COPY_P2P),
    PRE_COPY_P2P: (RUNNING_P2P, RUNNING_P2P, STOP_COPY, RUNNING_P2P, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P),
}
NEXT: Mapping[int, Mapping[int, int]] = {state: dict(zip(_TARGETS, row, strict=True)) for state, row in _ROWS.items()}
"""By state and target; ERROR: there is no way."""


def next_state(flags: int, current: int, target: int) -> int:
    """The next state on the way from `current` to `target` for a device with `flags`.

    Raises KernelError(EINVAL): the device does not know the target, is in ERROR, or may not go there from here.
    """
    if target not in _NEEDS or not _has(flags, target):
        raise refuse(EINVAL, f"the device has no migration state {NAMES.get(target, target)}", "field", "device_state")
    if current == ERROR:
        raise refuse(EINVAL, "the device is in ERROR, which a reset alone ends", "field", "device_state")
    step = NEXT[current][target]
    while step != ERROR and not _has(flags, step):
        step = NEXT[step][target]
    if step == ERROR:
        raise refuse(EINVAL, f"{NAMES[current]} does not lead to {NAMES[target]}", "field", "device_state")
    return step


def _has(flags: int, state: int) -> bool:
    return flags & _NEEDS[state] == _NEEDS[state]
