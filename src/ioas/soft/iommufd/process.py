"""IOMMU_IOAS_CHANGE_PROCESS: the mappings go on under another process (iommufd_ioas_change_process, 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import Caller
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.pages import Owner, Pages
from ioas.soft.memory import AccountMode
from ioas.uapi.iommufd import iommu_ioas_change_process

if TYPE_CHECKING:
    from ioas.soft.iommufd.context import Context


def ioas_change_process(call: Call[iommu_ioas_change_process]) -> None:
    """IOMMU_IOAS_CHANGE_PROCESS: from now on the caller is charged for everything that is pinned.

    Raises KernelError, with nothing changed: EINVAL unless all mappings are of files, ENOMEM when the caller may not
    lock so much.
    """
    if call.command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    moving = [pages for pages in _all_pages(call.context) if _needs_move(pages, call.caller)]
    charged: list[tuple[AccountMode, int]] = []
    accounting = call.context.system.accounting
    try:
        for mode in AccountMode:
            count = sum(pages.pinned for pages in moving if pages.owner.mode is mode)
            if count:
                accounting.charge(mode, call.caller.memory, call.caller.uid, count)
                charged.append((mode, count))
    except KernelError:
        for mode, count in charged:
            accounting.uncharge(mode, call.caller.memory, call.caller.uid, count)
        raise
    for pages in moving:
        pages.change_owner(Owner(call.caller.memory, call.caller.uid, pages.owner.mode))


def _all_pages(context: Context) -> list[Pages]:
    """Every `Pages` that is mapped in any IOAS, once. Raises KernelError(EINVAL) when one is not of a file."""
    found: dict[int, Pages] = {}
    for ioas in _spaces(context):
        for area in ioas.iopt.areas:
            if not area.pages.of_file:
                raise refuse(EINVAL, f"area {area} of {ioas} is not a mapping of a file", "area", f"{area} of {ioas}")
            found[id(area.pages)] = area.pages
    return list(found.values())


def _spaces(context: Context) -> Iterator[Ioas]:
    return (entry for entry in context.objects if isinstance(entry, Ioas))


def _needs_move(pages: Pages, caller: Caller) -> bool:
    """Follows need_charge_update: pages of an owner with CAP_IPC_LOCK stay where they were counted."""
    owner = pages.owner
    if owner.mode is AccountMode.NONE:
        return False
    return owner.memory is not caller.memory or (owner.mode is AccountMode.USER and owner.uid != caller.uid)
