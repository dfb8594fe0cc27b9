"""Names of the capabilities that `--cap` grants on a software machine."""

from __future__ import annotations

from collections.abc import Iterable

from ioas.errors import UsageError
from ioas.host import Capability


def parse_capabilities(names: Iterable[str]) -> frozenset[Capability]:
    """The capabilities by name: "sys_rawio" or "CAP_SYS_RAWIO". Raises UsageError listing the known ones."""
    if isinstance(names, str):
        raise UsageError(f"capabilities is a list of names, not the text {names!r}")
    return frozenset(_parse(name) for name in names)


def _parse(name: str) -> Capability:
    try:
        return Capability[str(name).strip().upper().removeprefix("CAP_")]
    except KeyError:
        known = ", ".join(capability.name.lower() for capability in Capability)
        raise UsageError(f"unknown capability {name!r}; VFIO and iommufd ask for {known}") from None
