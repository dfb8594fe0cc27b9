"""Reading what the kernel's test harness prints."""

from tools.kernel.tap import Result, parse

OUTPUT = """\
TAP version 13
1..4
# Starting 4 tests from 2 test cases.
#  RUN           iommufd.simple_close ...
#            OK  iommufd.simple_close
ok 1 iommufd.simple_close
#  RUN           iommufd_ioas.no_domain.area ...
# iommufd.c:66:area:Expected -1 (-1) != self->fd (-1)
a line of the program's own
#          FAIL  iommufd_ioas.no_domain.area
not ok 2 iommufd_ioas.no_domain.area
ok 3 iommufd_viommu.no_viommu.hw_queue # SKIP no viommu
"""


def test_outcomes_and_the_lines_before_them_are_read() -> None:
    report = parse(OUTPUT.splitlines())

    assert report.planned == 4
    assert report.results == [
        Result("iommufd.simple_close", "pass", ("TAP version 13", "Starting 4 tests from 2 test cases.")),
        Result(
            "iommufd_ioas.no_domain.area",
            "fail",
            ("iommufd.c:66:area:Expected -1 (-1) != self->fd (-1)", "a line of the program's own"),
        ),
        Result("iommufd_viommu.no_viommu.hw_queue", "skip"),
    ]


def test_output_without_tap_has_no_plan_and_no_results() -> None:
    report = parse(["Segmentation fault"])

    assert (report.planned, report.results) == (0, [])
