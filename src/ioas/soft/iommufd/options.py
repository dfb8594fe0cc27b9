"""IOMMU_OPTION (iommufd_option and iommufd_ioas_option, 7.3)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import Capability
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.memory import AccountMode
from ioas.uapi.iommufd import (
    IOMMU_OPTION_HUGE_PAGES,
    IOMMU_OPTION_OP_GET,
    IOMMU_OPTION_OP_SET,
    IOMMU_OPTION_RLIMIT_MODE,
    iommu_option,
)

if TYPE_CHECKING:
    from ioas.soft.iommufd.context import Context

_MODES = {0: AccountMode.USER, 1: AccountMode.MM}


def option(call: Call[iommu_option]) -> None:
    """IOMMU_OPTION: only `val64` is written back, and for SET as well."""
    command = call.command
    if command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    handler = _OPTIONS.get(command.option_id)
    if handler is None:
        raise refuse(EOPNOTSUPP, f"option {command.option_id} is unknown", "field", "option_id")
    handler(call)
    call.respond_field("val64")


def _rlimit_mode(call: Call[iommu_option]) -> None:
    """Follows iommufd_option_rlimit_mode."""
    command, context = call.command, call.context
    if command.object_id:
        raise refuse(EOPNOTSUPP, "RLIMIT_MODE is of the whole file: object_id must be 0", "field", "object_id")
    if command.op == IOMMU_OPTION_OP_GET:
        command.val64 = int(context.account_mode is AccountMode.MM)
        return
    if command.op != IOMMU_OPTION_OP_SET:
        raise _unknown_operation(command.op)
    if not call.caller.capable(Capability.SYS_RESOURCE):
        raise refuse(EPERM, "RLIMIT_MODE is for CAP_SYS_RESOURCE only", "capability", "CAP_SYS_RESOURCE")
    if len(context.objects):
        raise refuse(
            EBUSY, f"RLIMIT_MODE cannot change: there are {len(context.objects)} objects", "object", _first(context)
        )
    mode = _MODES.get(command.val64)
    if mode is None:
        raise refuse(EINVAL, f"RLIMIT_MODE is 0 (user) or 1 (process), not {command.val64}", "field", "val64")
    context.account_mode = mode


def _first(context: Context) -> str:
    """The first object, for the refusal; ids of buried ones have none."""
    return next((str(entry) for entry in context.objects), "the ids of destroyed vDEVICEs")


def _huge_pages(call: Call[iommu_option]) -> None:
    """Follows iommufd_ioas_option_huge_pages."""
    command = call.command
    ioas = call.context.objects.get(command.object_id, Ioas)
    if command.op == IOMMU_OPTION_OP_GET:
        command.val64 = int(ioas.iopt.large_pages)
        return
    if command.op != IOMMU_OPTION_OP_SET:
        raise _unknown_operation(command.op)
    if command.val64 not in (0, 1):
        raise refuse(EINVAL, f"HUGE_PAGES is 0 or 1, not {command.val64}", "field", "val64")
    ioas.iopt.set_large_pages(bool(command.val64))


def _unknown_operation(number: int) -> KernelError:
    return refuse(EOPNOTSUPP, f"operation {number} is neither SET (0) nor GET (1)", "field", "op")


_OPTIONS: dict[int, Callable[[Call[iommu_option]], None]] = {
    IOMMU_OPTION_RLIMIT_MODE: _rlimit_mode,
    IOMMU_OPTION_HUGE_PAGES: _huge_pages,
}
