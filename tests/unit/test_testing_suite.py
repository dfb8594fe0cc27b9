"""The public suite notices: run over hosts that are broken on purpose, it fails, and by the test that is about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy  # noqa: F401 - here, for a run within this process would load it, and drop it again
import pytest

import ioas.testing.suite.edu
from ioas.api import SoftHost
from ioas.errors import KernelError, NotFound, TooBig, refuse
from ioas.soft.host.files import OpenFiles
from ioas.soft.iommufd import Context
from ioas.soft.vfio import Cdev
from ioas.testing import expect_faults
from ioas.uapi.iommufd import IOMMU_DESTROY, IOMMU_IOAS_ALLOC, IOMMU_IOAS_MAP, IOMMU_IOAS_UNMAP
from ioas.uapi.vfio import VFIO_DEVICE_DETACH_IOMMUFD_PT, VFIO_DEVICE_RESET, VFIO_DEVICE_SET_IRQS

pytest_plugins = ["pytester"]

ARGUMENTS = ("-q", "-p", "ioas.testing.plugin", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")

Ioctl = Callable[..., int]
Broken = Callable[[Ioctl], Ioctl]


def swallowed(*requests: int) -> Broken:
    """These requests are answered with success, and nothing is done."""
    return lambda ioctl: (
        lambda self, caller, request, argument: 0 if request in requests else ioctl(self, caller, request, argument)
    )


def excused(kind: type[KernelError], *, number: int | None = None) -> Broken:
    """A refusal of a kind comes as success, or as another errno."""

    def broken(ioctl: Ioctl) -> Ioctl:
        def call(self: object, caller: object, request: int, argument: object) -> int:
            try:
                return ioctl(self, caller, request, argument)
            except kind as error:
                if number is None:
                    return 0
                raise refuse(number, "as broken as can be") from error

        return call

    return broken


def twice(request_made_twice: int) -> Broken:
    """A request is carried out twice."""

    def broken(ioctl: Ioctl) -> Ioctl:
        def call(self: object, caller: object, request: int, argument: Any) -> int:
            if request == request_made_twice:
                ioctl(self, caller, request, bytearray(bytes(argument)))
            return ioctl(self, caller, request, argument)

        return call

    return broken


CALLS: dict[str, tuple[type, Broken, str]] = {
    "unmapping is a promise": (
        Context,
        swallowed(IOMMU_IOAS_UNMAP),
        "test_dma.py::test_nothing_lands_after_unmapping[soft]",
    ),
    "mapping is a promise": (
        Context,
        swallowed(IOMMU_IOAS_MAP),
        "test_space.py::test_mappings_do_not_overlap[soft]",
    ),
    "destroying is a promise": (
        Context,
        swallowed(IOMMU_DESTROY),
        "test_objects.py::test_an_object_is_destroyed_once[soft]",
    ),
    "objects are made twice": (
        Context,
        twice(IOMMU_IOAS_ALLOC),
        "test_objects.py::test_ids_are_positive_and_each_is_given_once[soft]",
    ),
    "an errno is another": (
        Context,
        excused(NotFound, number=5),
        "test_objects.py::test_what_does_not_exist_is_not_found[soft]",
    ),
    "tails are not looked at": (
        Context,
        excused(TooBig),
        "test_calls.py::test_a_longer_structure_with_something_unknown_in_its_tail_is_too_big[soft-DESTROY]",
    ),
    "detaching is a promise": (
        Cdev,
        swallowed(VFIO_DEVICE_DETACH_IOMMUFD_PT),
        "test_dma.py::test_a_detached_device_reaches_nothing[soft]",
    ),
    "no interrupt comes": (
        Cdev,
        swallowed(VFIO_DEVICE_SET_IRQS),
        "test_interrupts.py::test_an_interrupt_is_waited_for[soft]",
    ),
    "what is not bound is reset": (
        Cdev,
        swallowed(VFIO_DEVICE_RESET),
        "test_devices.py::test_nothing_but_bind_works_before_bind[soft]",
    ),
}


def run(pytester: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    """Run one test or module of the suite in this process."""
    module, mark, name = test.partition("::")
    place = f"ioas.testing.suite.{module.removesuffix('.py')}{mark}{name}"
    return pytester.runpytest_inprocess(*ARGUMENTS, "--ioas-host=soft", *options, "--pyargs", place)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for what will not come."""
    monkeypatch.setattr(ioas.testing.suite.edu, "PATIENCE", 0.3)
    monkeypatch.setitem(expect_faults.__wrapped__.__kwdefaults__, "within", 0.3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("file", "broken", "test"), CALLS.values(), ids=CALLS)
def test_a_host_that_answers_wrongly_does_not_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, file: type, broken: Broken, test: str
) -> None:
    run(pytester, test).assert_outcomes(passed=1)
    impatient(monkeypatch)
    monkeypatch.setattr(file, "ioctl", broken(file.ioctl))  # type: ignore[attr-defined]
    outcomes = run(pytester, test).parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0)


def test_a_host_that_keeps_what_it_was_given_does_not_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenFiles, "forget", lambda self, file: None)
    run(pytester, "test_closing.py::test_mappings_go_with_the_last_file_that_holds_them[soft]").assert_outcomes(
        passed=1, errors=1
    )


def test_a_device_that_translates_nothing_does_not_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SoftHost, "faults", lambda self: [])
    monkeypatch.setattr("ioas.soft.iommu.dma.DmaPort.write", lambda self, iova, data, pasid=None: True)
    run(pytester, "test_dma.py::test_data_go_to_the_device_and_come_back[soft]").assert_outcomes(failed=1)


MACHINES = {
    "an AMD unit, which tracks dirty pages": ('kind = "amd"', "test_page_tables.py::test_written_pages_are_told_once"),
    "a VT-d unit in scalable mode, which nests": (
        "scalable = true",
        "test_page_tables.py::test_a_table_that_others_can_stand_on_can_be_attached",
    ),
    "39 bits of IOVA": ("address_width = 39", "test_space.py::test_a_device_narrows_the_ranges"),
}


@pytest.mark.parametrize(("iommu", "test"), MACHINES.values(), ids=MACHINES)
def test_other_machines_pass_as_well(pytester: pytest.Pytester, iommu: str, test: str) -> None:
    """On the default machine the first two of these tests are skipped: its unit can neither."""
    pytester.makefile(".toml", other=f'[iommu]\n{iommu}\n[[device]]\nmodel = "edu"\n')
    run(pytester, f"{test}[soft]", "--ioas-machine=other.toml").assert_outcomes(passed=1)
    whole = ["test_space.py", "test_page_tables.py", "test_dma.py"]
    for module in whole:
        outcomes = run(pytester, module, "--ioas-machine=other.toml").parseoutcomes()
        assert outcomes["passed"]
        assert not outcomes.keys() & {"failed", "errors"}


def test_the_suite_is_found_in_the_installed_package(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*ARGUMENTS, "--ioas-host=soft", "--co", "--pyargs", "ioas.testing.suite")
    assert result.ret == pytest.ExitCode.OK
    for module in ("calls", "closing", "devices", "dma", "interrupts", "objects", "page_tables", "space"):
        result.stdout.fnmatch_lines([f"*test_{module}.py::*[[]soft*"])
