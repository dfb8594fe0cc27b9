"""The pytest plugin: hosts as parameters, devices that are ready, and what a test leaves behind is told by name."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy  # noqa: F401 - here, for a run within this process would load it, and drop it again
import pytest

from ioas.api import KernelHost, SoftHost
from ioas.errors import EnvironmentRefusal, UsageError
from ioas.testing import hosts
from ioas.testing.hosts import counterpart
from ioas.testing.program import Run
from tests.support.models import Rich

pytest_plugins = ["pytester"]

ARGUMENTS = ("-p", "ioas.testing.plugin", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", "error")


def outcome(pytester: pytest.Pytester, text: str, *arguments: str, host: str = "soft") -> pytest.RunResult:
    """Run a test file in this process."""
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess(*ARGUMENTS, f"--ioas-host={host}", *arguments)


def test_loading_the_plugin_loads_nothing_that_takes_time() -> None:
    heavy = ("numpy", "sortedcontainers", "click", "rich", "ioas.api", "ioas.soft", "ioas.kernel", "ioas.uapi")
    text = f"import pytest, sys, ioas.testing.plugin; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_every_test_has_a_machine_of_its_own(pytester: pytest.Pytester) -> None:
    text = """
    seen = []

    def test_one(ioas_host):
        seen.append(ioas_host)
        assert ioas_host.devices() == ["0000:01:00.0"]

    def test_other(ioas_host):
        assert seen[0].closed and not ioas_host.closed
    """
    outcome(pytester, text).assert_outcomes(passed=2)


def test_the_device_is_ready(pytester: pytest.Pytester) -> None:
    text = """
    def test_it(ioas_device, ioas_space, ioas_iommufd, ioas_bdf):
        assert (ioas_device.bdf, ioas_device.iommufd) == (ioas_bdf, ioas_iommufd)
        assert ioas_device.bar(0).read32(0) == 0x010000ED
        with ioas_space.alloc(4096, iova=0x100000):
            pass
        assert not ioas_device.bus_master
    """
    outcome(pytester, text).assert_outcomes(passed=1)


def test_a_marker_describes_the_machine(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", lab='[[device]]\nmodel = "edu"\naddr = "0000:05:00.0"\n')
    text = """
    import pytest

    @pytest.mark.ioas_machine("edu,addr=0000:07:00.0", "edu")
    def test_devices(ioas_host, ioas_bdf):
        assert ioas_host.devices() == ["0000:01:00.0", "0000:07:00.0"]
        assert ioas_bdf == "0000:01:00.0"

    @pytest.mark.ioas_machine(machine="lab.toml")
    def test_file(ioas_host):
        assert ioas_host.devices() == ["0000:05:00.0"]
    """
    outcome(pytester, text, "--strict-markers").assert_outcomes(passed=2)


def test_a_device_without_an_iommu_is_for_tests_that_ask_for_it(pytester: pytest.Pytester) -> None:
    pytester.makefile(
        ".toml", bare='[machine]\nunsafe_noiommu = true\n[iommu]\nkind = "none"\n[[device]]\nmodel = "edu"\n'
    )
    text = """
    import pytest

    @pytest.mark.ioas_machine("edu", no_iommu=True, capabilities=["sys_rawio"])
    def test_asks(ioas_device, ioas_space):
        with ioas_space.alloc(4096) as buffer:
            assert buffer.pages[0] == ioas_space.physical_address(buffer.mapping.at, 1)[0]

    @pytest.mark.ioas_machine(machine="bare.toml", capabilities=["sys_rawio"])
    def test_does_not(ioas_device):
        pass
    """
    outcome(pytester, text).assert_outcomes(passed=1, skipped=1)


def test_the_machine_of_tests_that_describe_none_can_be_named(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", lab='[[device]]\nmodel = "edu"\naddr = "0000:05:00.0"\n')
    text = """
    import pytest

    def test_named(ioas_bdf):
        assert ioas_bdf == "0000:05:00.0"

    @pytest.mark.ioas_machine("edu")
    def test_described(ioas_bdf):
        assert ioas_bdf == "0000:01:00.0"
    """
    outcome(pytester, text, "--ioas-machine=lab.toml").assert_outcomes(passed=2)


def test_machines_are_made_by_hand_as_well(pytester: pytest.Pytester) -> None:
    text = """
    kept = []

    def test_two(ioas_soft_host):
        first, second = ioas_soft_host(["edu", "edu"]), ioas_soft_host(strict=True)
        assert (len(first.devices()), len(second.devices())) == (2, 1)

    def test_leak(ioas_soft_host):
        kept.append(ioas_soft_host().iommufd())
    """
    result = outcome(pytester, text)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test has left behind:", "*<Iommufd /dev/iommu> is still open"])


LEAKS = {
    "a device": ("kept.append(ioas_host.device(ioas_bdf))", "<Device 0000:01:00.0> is still open"),
    "an iommufd": ("kept.append(ioas_host.iommufd())", "<Iommufd /dev/iommu> is still open"),
    "a mapping": (
        "ioas_space.alloc(8192, iova=0x100000)",
        "<Mapping 0x100000-0x101fff in *Ioas 1*> is still there",
    ),
    "an address space": ("ioas_iommufd.ioas()", "IOAS * is still there"),
    "a page table": ("ioas_iommufd.hwpt(ioas_device, ioas_space)", "*EBUSY*"),
    "an eventfd": ("kept.append(os.eventfd(0))", "descriptor * (anon_inode:[[]eventfd]) is still open"),
    "a memfd": ("kept.append(os.memfd_create('ring'))", "descriptor * (/memfd:ring (deleted)) is still open"),
    "a duplicate": ("kept.append(os.dup(ioas_device.fileno()))", "1 files still held"),
    "a fault": (
        "dma(ioas_device)",
        "the DMA of 0000:01:00.0 to write 16 bytes was stopped at 0x100000: not mapped",
    ),
}
LEAKY = """
import os

kept = []

def dma(device):
    device.bus_master = True
    registers = device.bar(0)
    for register, value in ((0x80, 0x40000), (0x88, 0x100000), (0x90, 16), (0x98, 3)):
        registers.write64(register, value)
    while registers.read64(0x98) & 1:
        pass

def test_it(ioas_host, ioas_bdf, ioas_iommufd, ioas_space, ioas_device):
    """


@pytest.mark.parametrize(("statement", "complaint"), LEAKS.values(), ids=LEAKS)
def test_what_is_left_behind_is_named(pytester: pytest.Pytester, statement: str, complaint: str) -> None:
    result = outcome(pytester, LEAKY + statement)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*{complaint}*"])


def test_a_test_that_has_failed_is_not_blamed_for_leaks_too(pytester: pytest.Pytester) -> None:
    result = outcome(pytester, LEAKY + "ioas_iommufd.ioas(); dma(ioas_device); raise ValueError")
    result.assert_outcomes(failed=1)


FAULTS = """
import pytest
from ioas.testing import expect_faults

@pytest.fixture
def stray(ioas_device):
    ioas_device.bus_master = True
    registers = ioas_device.bar(0)

    def start(command):
        for register, value in ((0x80, 0x40000), (0x88, 0x100000), (0x90, 16), (0x98, 1 | command)):
            registers.write64(register, value)

    yield start
    while registers.read64(0x98) & 1:
        pass

def test_expected(ioas_host, stray):
    with expect_faults(ioas_host, iova=0x100000, write=True, reason="not mapped") as faults:
        stray(2)
        assert faults == []
    assert [fault.requester for fault in faults] == ["0000:01:00.0"]
    assert ioas_host.faults() == []

def test_another(ioas_host, stray):
    with pytest.raises(AssertionError, match=r"iova 0x200000: the DMA of .* at 0x100000: not mapped"):
        with expect_faults(ioas_host, iova=0x200000, within=0.5):
            stray(2)
    with expect_faults(ioas_host):
        stray(2)
    ioas_host.machine.system.faults.clear()

def test_none(ioas_host):
    with pytest.raises(AssertionError, match="no DMA fault: there was none at all"):
        with expect_faults(ioas_host, within=0.01):
            pass

def test_the_block_s_own_error_comes_first(ioas_host):
    with pytest.raises(KeyError):
        with expect_faults(ioas_host):
            raise KeyError
"""


def test_faults_are_expected(pytester: pytest.Pytester) -> None:
    outcome(pytester, FAULTS).assert_outcomes(passed=4)


def test_hosts_are_chosen_by_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hosts, "_IOMMU", tmp_path / "iommu")
    monkeypatch.setattr(hosts, "_VFIO_PCI", tmp_path / "vfio-pci")
    assert hosts.available_hosts() == ["soft"]
    (tmp_path / "iommu").touch()
    assert hosts.available_hosts() == ["soft"]
    (tmp_path / "vfio-pci").mkdir()
    (tmp_path / "vfio-pci/bind").touch()
    assert hosts.available_hosts() == ["soft"]
    (tmp_path / "vfio-pci/0000:01:00.0").mkdir()
    assert hosts.available_hosts() == ["soft", "kernel"]


def test_a_test_runs_on_every_host_that_is_asked_for(pytester: pytest.Pytester) -> None:
    result = outcome(pytester, "def test_it(ioas_host): pass", "--ioas-host=kernel", "--ioas-host=soft", "--co", "-q")
    result.stdout.fnmatch_lines(["*::test_it[[]soft]", "*::test_it[[]kernel]"])
    assert pytester.runpytest_inprocess(*ARGUMENTS, "--ioas-host=qemu").ret == pytest.ExitCode.USAGE_ERROR


def test_a_software_machine_s_test_is_skipped_on_the_kernel(pytester: pytest.Pytester) -> None:
    text = """
    import pytest

    @pytest.mark.ioas_machine("edu", "edu")
    def test_it(ioas_host): raise ValueError
    """
    result = outcome(pytester, text, "-rs", host="kernel")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*the test describes a software machine*"])


def test_a_kernel_that_was_asked_for_and_has_no_device_is_a_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelHost, "devices", lambda self: [])
    result = outcome(pytester, "def test_it(ioas_device): pass", host="kernel")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no device 1234:11e8 (edu) is bound to vfio-pci*"])


def test_hardware_is_found_by_the_ids_of_its_model() -> None:
    with SoftHost(devices=[Rich(), "edu"]) as host:
        assert counterpart(host, "edu,dma_mask=1") == "0000:02:00.0"
        assert counterpart(host, Rich()) == "0000:01:00.0"
        with pytest.raises(UsageError, match="unknown device model"):
            counterpart(host, "nothing")


def test_a_device_without_an_iommu_is_left_alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "is_untranslated", lambda host, bdf: True)
    result = outcome(pytester, "def test_it(ioas_bdf): raise ValueError", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no IOMMU stands between 0000:01:00.0 and memory*"])


def test_the_device_of_the_kernel_can_be_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "is_untranslated", lambda host, bdf: False)
    text = "def test_it(ioas_bdf): assert ioas_bdf == '0000:0a:00.0'"
    outcome(pytester, text, "--ioas-device=0000:0a:00.0", host="kernel").assert_outcomes(passed=1)


def test_where_ioas_run_does_not_work_it_is_skipped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(self: Run) -> None:
        raise EnvironmentRefusal("no seccomp here")

    monkeypatch.setattr(Run, "__init__", cannot)
    result = outcome(pytester, "def test_it(ioas_run): raise ValueError", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*`ioas run` does not work here: no seccomp here*"])


FRAGILE = """
from ioas.soft.pci import Bar, Function
from ioas.testing import expect_failure


class Fragile(Function):
    model = "fragile"
    window = Bar(0, 4096)
    order = window.register(0)

    @order.on_write
    def _order_written(self, value):
        raise ZeroDivisionError("oops")


def break_it(host):
    with host.iommufd() as iommufd, host.device("0000:01:00.0") as device:
        device.bind(iommufd)
        device.bar(0).write32(0, 1)
"""


def test_a_model_that_fails_is_an_error_of_the_test_that_did_not_expect_it(pytester: pytest.Pytester) -> None:
    text = """
    def test_unexpected(ioas_soft_host):
        break_it(ioas_soft_host([Fragile()]))

    def test_expected(ioas_soft_host):
        host = ioas_soft_host([Fragile()])
        with expect_failure(host, "0000:01:00.0", ZeroDivisionError) as failures:
            break_it(host)
        assert failures[0].access == "a write of 4 bytes (0x1) to order (BAR 0, offset 0x0)"

    def test_expected_in_vain(ioas_soft_host):
        host = ioas_soft_host([Fragile()])
        with expect_failure(host, "0000:01:00.0", within=0):
            pass
    """
    result = outcome(pytester, FRAGILE + textwrap.dedent(text))
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*the model of fragile 0000:01:00.0 failed in a write of 4 bytes (0x1) to order*ZeroDivisionError: oops*",
            '*raise ZeroDivisionError("oops")',
            "*AssertionError: the model at 0000:01:00.0 did not raise Exception: no model failed at all",
        ]
    )
