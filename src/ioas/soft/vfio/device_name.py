"""How GET_DEVICE_FD names a device: its address, and behind a space a VF token (vfio_pci_core_match, 7.3).

Example: "0000:04:10.0 vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3".
"""

from __future__ import annotations

import re
from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.errors import refuse

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice

_OPTION = "vf_token="
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def match(device: VfioDevice, text: str) -> bool:
    """Whether `text` names `device`, with the token that it wants.

    Raises KernelError: EINVAL for options that are wrong; and as `VfioDevice.match_token`.
    """
    if not text.startswith(device.name):
        return False
    options = text[len(device.name) :]
    if options and not options.startswith(" "):
        return False
    device.match_token(_token(options))
    return True


def _token(options: str) -> bytes | None:
    """The UUID's bytes. Spaces may stand anywhere between options, of which there is one."""
    token = None
    while options := options.lstrip(" "):
        if token is not None or not options.startswith(_OPTION):
            raise refuse(EINVAL, f"behind a device's name may stand one {_OPTION}UUID", "field", "name")
        found = _UUID.match(options, len(_OPTION))
        if found is None:
            raise refuse(EINVAL, "the VF token is no UUID", "field", "name")
        token = bytes.fromhex(found[0].replace("-", ""))
        options = options[found.end() :]
    return token
