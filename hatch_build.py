"""Builds the one compiled file, `src/ioas/run/mmio/trap.c`, when ioas is installed, where there is a C compiler.

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

SOURCE = Path("src/ioas/run/mmio/trap.c")
FLAGS = ("-O2", "-shared", "-fPIC", "-Wall", "-Wextra")


class Compile(BuildHookInterface[Any]):
    """Found by its base class."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the result into the wheel."""
        source = Path(self.root) / SOURCE
        target = source.with_suffix(".so")
        target.unlink(missing_ok=True)
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if self.target_name != "wheel" or not compiler or (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        done = subprocess.run([compiler, *FLAGS, "-o", target, source], check=False)
        if done.returncode == 0:
            build_data["artifacts"].append(str(SOURCE.with_suffix(".so")))
            build_data.update(pure_python=False, tag="py3-none-linux_x86_64")
