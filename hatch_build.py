"""Builds the compiled part, `src/ioas/run/mmio/*.c`, when ioas is installed, where there is a C compiler.

Nothing needs it (`ioas.run.mmio.compiled`): without a compiler, or on another system, ioas is installed without it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = Path("src/ioas/run/mmio")
SOURCES = ("trap.c", "poll.c")
TARGET = PLACE / "native.so"
FLAGS = ("-O2", "-shared", "-fPIC", "-Wall", "-Wextra")


class Compile(BuildHookInterface[Any]):
    """Found by its base class."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the result into the wheel."""
        target = Path(self.root) / TARGET
        sources = [Path(self.root) / PLACE / name for name in SOURCES]
        target.unlink(missing_ok=True)
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if self.target_name != "wheel" or not compiler or (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        done = subprocess.run([compiler, *FLAGS, "-o", target, *sources], check=False)
        if done.returncode == 0:
            build_data["artifacts"].append(str(TARGET))
            build_data.update(pure_python=False, tag="py3-none-linux_x86_64")
