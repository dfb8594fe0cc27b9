"""VF tokens: what the users of a PF and of its VFs must agree on (vfio_pci_core_match_token_uuid, 7.3).

Whoever has the PF can disturb and deceive its VFs. So a VF opens only with the UUID that its PF's user has set, and a
PF whose VFs are open only with that UUID as well. A PF without open VFs takes any UUID that comes with its opening.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice

SIZE = 16
"""Bytes of a UUID."""


class VfToken:
    """The token of a PF that vfio-pci has: at first one that nobody knows. `System.lock` is held for changes."""

    def __init__(self) -> None:
        self.uuid = os.urandom(SIZE)
        self.users = 0
        """VFs that are open."""


def check(device: VfioDevice, uuid: bytes | None) -> None:
    """Whether `device` may be opened with `uuid` (None: without one); that of a PF becomes its token.

    Raises KernelError: EACCES for a token that is wrong or missing, EINVAL for one that is of no use.
    """
    if device.is_virtual:
        _check_virtual(device, uuid)
    elif device.vf_token is not None:
        _check_physical(device, device.vf_token, uuid)
    elif uuid is not None:
        raise refuse(EINVAL, "a VF token is for functions of SR-IOV", "device", device.name)


def _check_virtual(device: VfioDevice, uuid: bytes | None) -> None:
    token = device.physical.vf_token if device.physical is not None else None
    if token is None:
        if uuid is not None:
            raise refuse(EINVAL, "there is no VF token, for vfio-pci does not have the PF", "device", device.name)
    elif uuid != token.uuid:
        raise _wrong(device, uuid)


def _check_physical(device: VfioDevice, token: VfToken, uuid: bytes | None) -> None:
    if not token.users:
        token.uuid = uuid or token.uuid
    elif uuid != token.uuid:
        raise _wrong(device, uuid)


def _wrong(device: VfioDevice, uuid: bytes | None) -> KernelError:
    what = "a VF token is needed" if uuid is None else "this is not the VF token"
    return refuse(EACCES, f"{what}: the UUID that the user of the PF has set", "device", device.name)
