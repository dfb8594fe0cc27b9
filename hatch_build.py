"""Builds the compiled part, `src/ioas/run/mmio/*.c`, when ioas is installed, where there is a C compiler.

Nothing needs it (`ioas.run.mmio.compiled`): without a compiler, or on another system, ioas is installed without it. It
holds the digest of what it was built from, so that it is not used when these files have changed.
"""

from __future__ import annotations

import hashlib
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
        digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        made = target.with_suffix(".new")
        command = [compiler, *FLAGS, f'-DSOURCES="{digest}"', "-o", made, *sources]
        if subprocess.run(command, check=False).returncode == 0:
            made.replace(target)  # whole at once, for who runs meanwhile
            build_data["artifacts"].append(str(TARGET))
            build_data.update(pure_python=False, tag="py3-none-linux_x86_64")
