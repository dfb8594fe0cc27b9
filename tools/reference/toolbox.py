"""The programs that the guest needs, beside Python: QEMU with an igb device, and what Linux is built with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from ioas.errors import EnvironmentRefusal

Say = Callable[[str], None]
QEMU = "qemu-system-x86_64"
MODELS = ("igb", "edu", "nvme", "intel-iommu", "virtio-9p-pci")


def qemu(say: Say) -> tuple[str, ...]:
    """The words that start QEMU."""
    if (path := shutil.which(QEMU)) and _has_models(path):
        return (path,)
    raise EnvironmentRefusal("no QEMU 8 or later with an igb device; install qemu-system-x86")


def for_kernel(say: Say) -> dict[str, str]:
    """The environment in which make finds what Linux is built with."""
    return dict(os.environ)


def _has_models(path: str) -> bool:
    done = subprocess.run([path, "-device", "help"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode == 0 and all(f'name "{model}"' in done.stdout for model in MODELS)
