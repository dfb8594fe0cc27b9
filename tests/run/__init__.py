"""`ioas run` as a program meets it: each test is a program, run under it."""
