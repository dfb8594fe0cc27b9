"""``python -m ioas``: the same as the command ``ioas``."""

from ioas.cli import main

main()
