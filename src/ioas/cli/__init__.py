"""The command ``ioas``."""

from ioas.cli.main import main

__all__ = ["main"]
