"""Tests of `ioas.inspect`, on machines described file by file."""
