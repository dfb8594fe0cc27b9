"""Models that fail in their own code, and tests that want them to.

The program under test sees a dead device and goes on; whoever wrote the model wants to know. So a failure that no test
expected is an error at the end of a test that uses `ioas_host`, as DMA that was stopped is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ioas.testing.faults import wait

if TYPE_CHECKING:
    from ioas.api import SoftHost
    from ioas.api.host import BaseHost
    from ioas.soft.pci import Failure


@contextmanager
def expect_failure(
    host: SoftHost, bdf: str, error: type[BaseException] = Exception, *, within: float = 10.0
) -> Iterator[list[Failure]]:
    """Expect the model at `bdf` to raise `error` in the block, or `within` seconds of its end.

    The list holds the failure at the end; it is taken off the host's record. Raises AssertionError when there is none.
    """
    found: list[Failure] = []
    ring = threading.Event()
    guard = host.machine.functions[bdf].guard

    def told(failure: Failure) -> None:
        if isinstance(failure.error, error):
            found.append(failure)
            ring.set()

    guard.listeners.append(told)
    try:
        yield found
        wait(lambda: bool(found), ring, within)
    finally:
        guard.listeners.remove(told)
    if not found:
        others = "; ".join(map(str, host.failures())) or "no model failed at all"
        raise AssertionError(f"the model at {bdf} did not raise {error.__name__}: {others}")
    for failure in found:
        host.machine.failures.remove(failure)


def model_failures(host: BaseHost) -> list[str]:
    """The failures that nobody expected, as sentences with the traceback; none for the running kernel."""
    from ioas.api import SoftHost

    failures = host.failures() if isinstance(host, SoftHost) else []
    return ["\n    ".join([str(failure), *failure.trace()]) for failure in failures]
