"""Ask the machine at hand a long list of questions about iommufd and VFIO; print one line for each answer.

An ordinary program: plain system calls, no import of ioas, nothing but Python. It runs on the real kernel as on
the software host, and what the two say can be compared line by line.

    python3 probe.py [SECTION...]      # all sections, or some: module names or module.function
"""

from __future__ import annotations

import importlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from questions.calls import begin, say

MODULES = (
    "dispatcher",
    "space",
    "placement",
    "compat",
    "tables",
    "accesses",
    "later",
    "binding",
    "information",
    "registers",
    "signals",
    "transfers",
    "exports",
    "power",
    "virtual",
    "messages",
    "states",
    "ordinary",
)


def main(wanted: list[str]) -> None:
    for name in MODULES:
        module = importlib.import_module(f"questions.{name}")
        for section in module.SECTIONS:
            full = f"{name}.{section.__name__}"
            if wanted and name not in wanted and full not in wanted:
                continue
            begin(full)
            try:
                section()
            except Exception as error:
                say("ended early", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
