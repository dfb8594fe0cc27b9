"""The pytest plugin: hosts, devices and programs as fixtures, with a look for leaks at the end of each test.

It is loaded into every run of pytest where ioas is installed, so it imports next to nothing until a fixture is used.

Options: ``--ioas-host=soft|kernel`` (repeatable; otherwise the software host, and the running kernel where it has a
device bound to vfio-pci), ``--ioas-machine=FILE`` (the software machine, otherwise one edu), ``--ioas-device=BDF`` (the
kernel's device, otherwise one with the ids of the machine's first).
Marker: ``ioas_machine(*devices, machine=..., ...)``, the arguments of `ioas.SoftHost`, says what the machine is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

from ioas.testing.hosts import HOST_NAMES, HostName, available_hosts

if TYPE_CHECKING:
    from ioas.api import Device, Ioas, Iommufd, KernelHost, SoftHost
    from ioas.api.host import BaseHost
    from ioas.testing.leaks import Watch
    from ioas.testing.program import Run

_raised = pytest.StashKey[bool]()
_MARKER = "ioas_machine"
_DEFAULT_MODEL = "edu"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the options."""
    group = parser.getgroup("ioas", "hosts and devices of ioas")
    group.addoption(
        "--ioas-host",
        dest="ioas_hosts",
        action="append",
        choices=HOST_NAMES,
        help="where tests that use ioas_host run; repeatable (default: soft, and kernel where a device is bound to"
        " vfio-pci)",
    )
    group.addoption(
        "--ioas-machine",
        metavar="FILE",
        help="the software machine of ioas_host for tests that do not describe one (default: one edu)",
    )
    group.addoption(
        "--ioas-device",
        metavar="BDF",
        help="the running kernel's device for tests (default: the first with the ids of the software machine's device)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    text = "the machine of ioas_host; the arguments are those of ioas.SoftHost"
    config.addinivalue_line("markers", f"{_MARKER}(*devices, machine=None, capabilities=(), ...): {text}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a host on every host."""
    if "ioas_host" in metafunc.fixturenames:
        names = metafunc.config.getoption("ioas_hosts") or available_hosts()
        metafunc.parametrize("ioas_host", list(dict.fromkeys(names)), indirect=True)


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remember that a test has raised: what it leaves behind is no news then."""
    if call.when == "call" and call.excinfo is not None:
        item.stash[_raised] = True


@pytest.fixture
def ioas_host(request: pytest.FixtureRequest) -> Iterator[BaseHost]:
    """A host: a software machine of its own for each test, or the running kernel.

    At the end nothing may be left that the test opened, mapped or pinned, and no DMA may have been stopped that it did
    not expect (`ioas.testing.expect_faults`).
    """
    name: HostName = request.param
    with _watching(request) as watch:
        yield watch.over(_software(request) if name == "soft" else _kernel(request))


@pytest.fixture
def ioas_soft_host(request: pytest.FixtureRequest) -> Iterator[Callable[..., SoftHost]]:
    """``ioas_soft_host(devices, machine=..., ...)``: software machines, by the arguments of `ioas.SoftHost`.

    The same is looked at as for `ioas_host`, which closes them.
    """
    from ioas.api import SoftHost

    with _watching(request) as watch:
        yield lambda *arguments, **options: watch.over(SoftHost(*arguments, **options))


@pytest.fixture
def ioas_bdf(request: pytest.FixtureRequest, ioas_host: BaseHost) -> str:
    """The BDF of the device to test: the first of the machine, or the kernel's that has the same ids.

    Skips where no IOMMU stands in front of it: there a test that lets DMA go astray brings the machine down. But not
    for a test whose marker asks for such a machine (``no_iommu=True``), which is a software one.
    """
    from ioas.testing.hosts import is_untranslated

    bdf = _chosen(request, ioas_host)
    marker = request.node.get_closest_marker(_MARKER)
    if is_untranslated(ioas_host, bdf) and not (marker and marker.kwargs.get("no_iommu")):
        pytest.skip(f"no IOMMU stands between {bdf} and memory")
    return bdf


@pytest.fixture
def ioas_iommufd(request: pytest.FixtureRequest, ioas_host: BaseHost) -> Iterator[Iommufd]:
    """An open /dev/iommu of `ioas_host`. At the end all its objects have to be destroyed."""
    from ioas.testing.leaks import objects

    with ioas_host.iommufd() as iommufd:
        yield iommufd
        complaints = [] if iommufd.closed else objects(iommufd)
    _complain(request, complaints)


@pytest.fixture
def ioas_space(request: pytest.FixtureRequest, ioas_iommufd: Iommufd) -> Iterator[Ioas]:
    """An empty I/O address space of `ioas_iommufd`. At the end nothing may be mapped in it."""
    from ioas.testing.leaks import mappings

    with ioas_iommufd.ioas() as space:
        yield space
        complaints = mappings(space)
    _complain(request, complaints)


@pytest.fixture
def ioas_device(ioas_host: BaseHost, ioas_bdf: str, ioas_iommufd: Iommufd, ioas_space: Ioas) -> Iterator[Device]:
    """The device `ioas_bdf`, open, bound to `ioas_iommufd` and attached to `ioas_space`; bus mastering is off."""
    with ioas_host.device(ioas_bdf) as device:
        device.bind(ioas_iommufd)
        device.attach(ioas_space)
        yield device


@pytest.fixture(scope="session")
def ioas_run() -> Run:
    """``ioas_run("./driver", bdf, devices=["edu"])``: a program under `ioas run`; skips where that does not work."""
    from ioas.errors import EnvironmentRefusal
    from ioas.testing.program import Run

    try:
        return Run()
    except EnvironmentRefusal as error:
        pytest.skip(f"`ioas run` does not work here: {error}")


def _software(request: pytest.FixtureRequest) -> SoftHost:
    from ioas.api import SoftHost

    marker = request.node.get_closest_marker(_MARKER)
    if marker:
        return SoftHost(list(marker.args) or None, **marker.kwargs)
    return SoftHost(machine=request.config.getoption("ioas_machine"))


def _kernel(request: pytest.FixtureRequest) -> KernelHost:
    from ioas.api import KernelHost

    marker = request.node.get_closest_marker(_MARKER)
    if marker and (marker.kwargs or len(marker.args) > 1):
        pytest.skip("the test describes a software machine")
    return KernelHost()


def _chosen(request: pytest.FixtureRequest, host: BaseHost) -> str:
    from ioas.api import SoftHost
    from ioas.errors import UsageError
    from ioas.testing.hosts import counterpart

    if isinstance(host, SoftHost):
        return host.devices()[0]
    if chosen := request.config.getoption("ioas_device"):
        return str(chosen)
    marker = request.node.get_closest_marker(_MARKER)
    try:
        return counterpart(host, marker.args[0] if marker and marker.args else _DEFAULT_MODEL)
    except UsageError as error:
        _not_there(request, str(error))


def _not_there(request: pytest.FixtureRequest, reason: str) -> NoReturn:
    """Skip, or fail where the user asked for the kernel."""
    if "kernel" in (request.config.getoption("ioas_hosts") or ()):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def _watching(request: pytest.FixtureRequest) -> Iterator[Watch]:
    from ioas.testing.leaks import Watch

    watch = Watch()
    yield watch
    _complain(request, watch.end())


def _complain(request: pytest.FixtureRequest, complaints: list[str]) -> None:
    if complaints and not request.node.stash.get(_raised, False):
        pytest.fail("the test has left behind:\n" + "\n".join(f"  {line}" for line in complaints), pytrace=False)
