"""Tests that run in the reference guest and are reported here, as pytest-xdist does between its processes.

Outside, pytest collects the tests of tests/kernel and starts, for each kind of guest that they name, one guest with
one pytest in it. That one writes its reports as lines of JSON, and each becomes the report of the same test outside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.reference.guest import INSIDE

ROOT = Path(__file__).parents[2]
REPORTS = "IOAS_GUEST_REPORTS"
"""In the guest: the descriptor that reports go to."""
# The reports take the place of standard output, and what pytest prints that of standard error.
SHELL = 'exec "$@" 3>&1 1>&2'
TEST_SECONDS = 300
END_SECONDS = 30
TAIL = 4000
_STOOD_STILL = "it has given no sign of life"

Report = dict[str, Any]


def variant() -> str | None:
    """The kind of guest that this process runs in; None outside."""
    return os.environ.get(INSIDE)


def send(report: Report) -> None:
    """In the guest: pass a report on to the pytest outside, if one asked."""
    if descriptor := os.environ.get(REPORTS):
        os.write(int(descriptor), json.dumps(report).encode() + b"\n")


class GuestRun:
    """One guest of the kind `variant` that runs the tests `names`, from the first question to the last."""

    def __init__(self, variant: str, names: Sequence[str]) -> None:
        self._names = names
        self._repeated: set[str] = set()
        self._variant = variant
        self._process: subprocess.Popen[str] | None = None
        self._reports: dict[str, list[Report]] = defaultdict(list)

    def reports(self, name: str) -> list[Report]:
        """The reports of test `name`: of setup, call and teardown, or fewer when the guest did not get so far."""
        process = self._process = self._process or self._started()
        while not any(report["when"] == "teardown" for report in self._reports[name]):
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                if not self._begin_again(name):
                    break
                process = self._process
                continue
            report = json.loads(line)
            self._reports[report["nodeid"]].append(report)
        return self._reports.pop(name)

    def _begin_again(self, name: str) -> bool:
        """Start another guest for `name` and what follows, if this one stood still, as QEMU does on a busy machine.

        Once for a test: one at which the next guest stands still as well has failed.
        """
        if name in self._repeated or _STOOD_STILL not in self.last_words():
            return False
        self._repeated.add(name)
        sys.stderr.write(f"\nreference guest: it stood still in {name}; another one goes on from there\n")
        self._reports.pop(name, None)
        self._names = self._names[list(self._names).index(name) :]
        self._log.close()
        self._process = self._started()
        return True

    def last_words(self) -> str:
        """What the guest's pytest and the tool printed, and the status, when no more reports come."""
        if not self._process:
            return ""
        status = self._process.wait(END_SECONDS)
        self._log.seek(0)
        return f"{self._log.read()[-TAIL:]}\n(status {status} of the guest {self._variant!r})"

    def end(self) -> None:
        """End the guest if it still runs."""
        if self._process:
            self._process.terminate()
            self._process.communicate(timeout=END_SECONDS)
            self._log.close()

    def _started(self) -> subprocess.Popen[str]:
        limit = str(TEST_SECONDS * (len(self._names) + 1))
        tool = [sys.executable, "-m", "tools.reference", "run", "--variant", self._variant, "--timeout", limit, "--"]
        inner = ["python", "-m", "pytest", "-p", "no:cacheprovider", *self._names]
        lanes = f"kernel,{os.environ.get('IOAS_REQUIRE', '')}"
        environment = {**os.environ, REPORTS: "3", "IOAS_REQUIRE": lanes}
        self._log = os.fdopen(os.memfd_create("log"), "w+")  # a pipe would fill while nobody reads it
        return subprocess.Popen(
            [*tool, "sh", "-c", SHELL, "sh", *inner],
            cwd=ROOT, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
