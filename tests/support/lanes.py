"""Lanes: groups of tests that need something which not every machine has.

A test that finds its need unmet calls `require` with the lane's name and the reason. That skips it with
the reason, so that ``make test`` passes everywhere; where ``IOAS_REQUIRE`` (a comma-separated list of
lanes, or "all") names the lane it fails instead, so that CI cannot lose a lane without noticing.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

LANES = {
    "cc": "a C compiler and libc headers, for probes and example programs",
    "uapi": "the 7.3 uAPI headers: a fetched linux-libc-dev, or IOAS_LINUX",
    "conformance": "the kernel's selftests, fetched and built by `make conformance`",
    "clients": "programs of other people: Debian's QEMU, lspci and dpdk-devbind.py, and a kernel for a guest to boot",
    "run": "seccomp user notification, which `ioas run` stands on",
    "namespace": "a mount namespace of one's own, which containers may refuse",
    "kernel": "the reference guest, which `make reference` builds: the real kernel under QEMU",
    "root": "root, for what only a privileged supervisor can do",
    "user": "root, to become an unprivileged user for a test",
}


def required() -> frozenset[str]:
    """The lanes that ``IOAS_REQUIRE`` names; raises pytest.UsageError for a name that is no lane."""
    names = {name.strip() for name in os.environ.get("IOAS_REQUIRE", "").split(",")} - {""}
    if unknown := names - LANES.keys() - {"all"}:
        raise pytest.UsageError(f"IOAS_REQUIRE names {', '.join(sorted(unknown))}; lanes are {', '.join(LANES)}")
    return frozenset(LANES) if "all" in names else frozenset(names)


def require(lane: str, reason: str) -> NoReturn:
    """Give up on this test for want of `lane`: skip it with `reason`, or fail it where the lane is required."""
    if lane not in LANES:
        raise pytest.UsageError(f"{lane!r} is not a lane; lanes are {', '.join(LANES)}")
    if lane in required():
        pytest.fail(f"lane {lane} is required (IOAS_REQUIRE) but missing: {reason}", pytrace=False)
    pytest.skip(f"lane {lane}: {reason}")
