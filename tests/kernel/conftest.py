"""Everything in this directory runs on the real kernel: in the reference guest, and is reported here (lane kernel).

A test runs in the guest with an IOMMU, or in those that ``@pytest.mark.guests("iommu", "noiommu", ...)`` names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioas.errors import EnvironmentRefusal
from tests.support import guest, lanes
from tools.reference import config as options, kernels, toolbox
from tools.reference.guest import VARIANTS

HERE = Path(__file__).parent
DEFAULT = ("iommu",)
OUTER_SECONDS = 900
"""For a test seen from outside: what it may take in the guest and the guest's start, each with a limit of its own."""
_runs = pytest.StashKey[dict[str, guest.GuestRun]]()
_missing = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "guests(*variants): the reference guests that a test runs in")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Say in each test's name which guest it runs in.

    First of all, so that the names are the same wherever a session begins: in the guest it begins here.
    """
    marker = metafunc.definition.get_closest_marker("guests")
    names = marker.args if marker else DEFAULT
    if unknown := set(names) - VARIANTS.keys():
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: no guest is called {', '.join(sorted(unknown))}")
    here = guest.variant()
    metafunc.fixturenames.append("guest_variant")
    metafunc.parametrize("guest_variant", [name for name in names if here in (None, name)], scope="session")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Inside: report to who waits outside. Outside: see that there is a guest, and which tests it has to run."""
    if guest.variant():
        session.config.pluginmanager.register(_Sender(session.config))
        return
    items = [item for item in session.items if item.path.is_relative_to(HERE)]
    for item in items:
        item.add_marker(pytest.mark.timeout(OUTER_SECONDS))
    session.config.stash[_missing] = _unmet(session.config) if items else None
    session.config.stash[_runs] = {
        name: guest.GuestRun(name, [item.nodeid for item in items if _variant_of(item) == name]) for name in VARIANTS
    }


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the guests that still run: a session may end early."""
    for run in session.config.stash.get(_runs, {}).values():
        run.end()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Outside without a guest: skip."""
    if not item.path.is_relative_to(HERE):
        return
    if reason := item.config.stash.get(_missing, None):
        lanes.require("kernel", reason)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Outside with a guest: report what came of the test there. pytest asks for other directories' tests, too."""
    if guest.variant() or item.config.stash[_missing] or not item.path.is_relative_to(HERE):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports(item: pytest.Item) -> Iterator[pytest.TestReport]:
    run = item.config.stash[_runs][_variant_of(item)]
    received = run.reports(item.nodeid)
    for data in received:
        if isinstance(data["longrepr"], list):  # a skip's place and reason, which JSON has no tuples for
            data["longrepr"] = tuple(data["longrepr"])
        yield item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    if not received or received[-1]["when"] != "teardown":
        yield pytest.TestReport(
            item.nodeid, item.location, {}, "failed", f"no result came from the guest:\n{run.last_words()}", "call"
        )


def _variant_of(item: pytest.Item) -> str:
    variant: str = item.callspec.params["guest_variant"]  # type: ignore[attr-defined]
    return variant


def _unmet(config: pytest.Config) -> str | None:
    """Why there is no guest; builds the kernels where the lane is required."""
    try:
        toolbox.qemu(_say)
        if all(map(kernels.found, options.kernels())):
            return None
        if "kernel" not in lanes.required():
            return "the guest's kernels are not built; `make reference` builds them"
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            kernels.build(_say)
    except EnvironmentRefusal as refusal:
        return str(refusal)
    return None


def _say(text: str) -> None:
    sys.stderr.write(f"\nreference guest: {text}")
    sys.stderr.flush()


class _Sender:
    """In the guest: sends every report on."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        guest.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))
