"""The command line: thin, one module for each command; it parses, calls and renders."""

from ioas.cli.main import main

__all__ = ["main"]
