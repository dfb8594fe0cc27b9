"""Each refusal names what was in the way: the very object, device, area, region, limit or field.

Together the cases are all that the kernel's tests provoke (tests/conformance/refusals.txt).
"""

from __future__ import annotations

import pytest

from ioas.errors import KernelError
from tests.support.culprits import sizes, spaces, tables, virtual
from tests.support.culprits.case import Case, Watched
from tests.support.refusals import Refused, Row, rows

CASES = [*sizes.CASES, *spaces.CASES, *tables.CASES, *virtual.CASES]
BY_PROCESS_ONLY = {"IOMMU_IOAS_MAP_FILE EINVAL | the file has only 0x0 bytes | file | {fd} (/memfd:buffer (deleted))"}
"""What is said of files of another process (tests/run)."""


def provoke(case: Case) -> Refused:
    iommufd = Watched()
    with pytest.raises(KernelError):
        case.provoke(iommufd)
    return iommufd.refused[-1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_culprit_is_named(case: Case) -> None:
    refused = provoke(case)
    assert f"{refused.command} {refused.errno} ({refused.kind} {refused.culprit})" == str(case)


def test_the_cases_are_all_that_the_kernels_tests_provoke() -> None:
    provoked = [provoke(case) for case in CASES]
    missing = [str(row) for row in rows() if not any(says(row, refused) for refused in provoked)]
    assert set(missing) == BY_PROCESS_ONLY


def says(row: Row, refused: Refused) -> bool:
    """Memory that is not there is put in words by whoever looks for it."""
    if row.errno == "EFAULT":
        return (row.command, row.errno, row.kind) == (refused.command, refused.errno, refused.kind)
    return row.says(refused)
