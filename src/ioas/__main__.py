"""`python -m ioas` is the `ioas` command."""

from ioas.cli import main

main()
