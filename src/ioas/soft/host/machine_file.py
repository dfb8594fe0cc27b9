"""Machine descriptions in TOML (`--machine lab.toml`)."""

from __future__ import annotations

import os

from ioas.soft.host.description import MachineDescription


def load_machine(path: str | os.PathLike[str]) -> MachineDescription:
    """Read a machine file. Raises MachineError naming file, line and key."""
    raise NotImplementedError
