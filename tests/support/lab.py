"""A machine from a few lines of TOML, and devices of it that are bound to one iommufd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ioas
from ioas.api import Device, Iommufd, SoftHost
from ioas.soft.pci import Function

EDU = '\n[[device]]\nmodel = "edu"\n'


class Lab:
    """The machine, an iommufd, and devices by number: 1 is 0000:01:00.0."""

    def __init__(self, host: SoftHost, iommufd: Iommufd, stack: ExitStack) -> None:
        self.host = host
        self.iommufd = iommufd
        self._stack = stack
        self._devices: dict[int, Device] = {}

    def device(self, number: int) -> Device:
        """The device at NUMBER:00.0, open and bound."""
        if number not in self._devices:
            opened = self._stack.enter_context(self.host.device(f"0000:{number:02x}:00.0"))
            opened.bind(self.iommufd)
            opened.bus_master = True
            self._devices[number] = opened
        return self._devices[number]

    def function(self, number: int) -> Function:
        """The model behind it."""
        return self.host.machine.functions[f"0000:{number:02x}:00.0"]


@contextmanager
def lab(directory: Path, text: str, devices: Sequence[Function] = ()) -> Iterator[Lab]:
    """The machine that `text` describes, with `devices` behind its first unit; closed at the end."""
    file = directory / "lab.toml"
    file.write_text(text)
    with (
        ioas.SoftHost(devices=list(devices), machine=file) as host,
        host.iommufd() as iommufd,
        ExitStack() as stack,
    ):
        yield Lab(host, iommufd, stack)
