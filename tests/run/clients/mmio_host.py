"""A supervisor whose machine has one device that writes down every access: ``python mmio_host.py LOG PROGRAM...``.

LOG becomes a JSON file: the accesses in order, as [verb, offset, data in hexadecimal], and what the window holds at
the end.
"""

from __future__ import annotations

import json
import sys
from typing import ClassVar

from ioas.run import Options, Supervisor, take_signals
from ioas.soft.pci import Bar, Capability, Function, Msi

SIZE = 1 << 19


class Recorder(Function):
    """Memory in BAR 0, and a log of what is done to it."""

    model: ClassVar[str] = "recorder"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0002
    capabilities: ClassVar[tuple[Capability, ...]] = (Msi(1, address64=True),)
    window = Bar(0, SIZE)

    def __init__(self, contents: bytes) -> None:
        super().__init__()
        self.bytes = bytearray(contents)
        self.log: list[tuple[str, int, str]] = []

    def read_window(self, bar: int, offset: int, length: int) -> bytes:
        data = bytes(self.bytes[offset : offset + length])
        self.log.append(("read", offset, data.hex()))
        return data

    def write_window(self, bar: int, offset: int, data: bytes) -> bool:
        self.bytes[offset : offset + len(data)] = data
        self.log.append(("write", offset, data.hex()))
        return True


def main() -> int:
    from kinds import contents

    path, *program = sys.argv[1:]
    mask = take_signals()
    from ioas.soft.host import SoftHost

    device = Recorder(contents(0, SIZE))
    status = Supervisor(SoftHost([device]), program, Options(mmio="trap"), mask).run()
    with open(path, "w") as file:
        json.dump({"log": device.log, "contents": bytes(device.bytes).hex()}, file)
    return status


if __name__ == "__main__":
    sys.exit(main())
