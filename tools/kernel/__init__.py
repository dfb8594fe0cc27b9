"""Linux 7.3 as a reference: its headers and its own test suites, fetched at need and never committed.

`source` finds or fetches the parts of the source tree, `selftests` builds the test programs, `tap` reads
what they print, `conformance` runs them under ``ioas run`` and compares with expected.toml.
"""
