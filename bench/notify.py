"""What one call of another program costs: an ioctl answered through seccomp user notification."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import commands
from bench.report import Line

CHECK_EXTENSION_US = 15
MAP_US = 40


def measure() -> Iterator[Line]:
    """VFIO_CHECK_EXTENSION and IOAS_MAP by notification, and a native ioctl beside them."""
    with tempfile.TemporaryDirectory() as directory:
        client = commands.compiled("client", Path(directory))
        figures = _figures(commands.output(client)) | _figures(commands.output([*commands.IOAS_RUN, *client, "ioas"]))
    language = "C" if commands.compiler() else "Python"
    yield Line(f"native ioctl (FIONREAD on a pipe), from {language}", figures["native"], "us")
    yield Line("VFIO_CHECK_EXTENSION by notification", figures["check_extension"], "us", CHECK_EXTENSION_US)
    yield Line("IOAS_MAP of 4 KiB by notification, shared memory, edu attached", figures["map_shared"], "us", MAP_US)
    yield Line("IOAS_UNMAP of the same", figures["unmap_shared"], "us")
    yield Line("IOAS_MAP of 4 KiB by notification, private memory, pinned by io_uring", figures["map_private"], "us")
    yield Line("IOAS_UNMAP of the same", figures["unmap_private"], "us")


def _figures(text: str) -> dict[str, float]:
    """The client's "name nanoseconds" lines, in microseconds."""
    return {name: int(value) / 1000 for name, value in (line.split() for line in text.splitlines())}
