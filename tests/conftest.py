"""Fixtures for every test: the lanes (see tests/support/lanes.py) and what they offer."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support import lanes


def pytest_sessionstart(session: pytest.Session) -> None:
    lanes.required()  # a misspelt lane ends the session at once


def pytest_configure() -> None:
    """Let programs be interrupted as usual: nohup, and shells that start something behind, have signals ignored."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def require() -> Callable[[str, str], NoReturn]:
    """``require(lane, reason)``: skip this test, or fail it where ``IOAS_REQUIRE`` names the lane."""
    return lanes.require


@pytest.fixture(scope="session")
def cc() -> str:
    """The path of a C compiler (lane cc)."""
    return shutil.which("cc") or shutil.which("gcc") or lanes.require("cc", "neither cc nor gcc on PATH")


@pytest.fixture(scope="session")
def uapi_headers() -> Path:
    """A directory with the 7.3 headers, for ``-isystem`` (lane uapi)."""
    from tools.kernel.source import found

    source = found()
    return source.headers if source else lanes.require("uapi", "no 7.3 headers; `make headers` fetches them")
