"""The seam between everything that speaks system calls and the hosts that answer them."""

from ioas.host.seam import (
    PAGE_SHIFT,
    PAGE_SIZE,
    AddressSpace,
    Backing,
    Caller,
    Capability,
    EventFd,
    Extent,
    File,
    Host,
    Iova,
    MemoryFile,
    PhysicalAddress,
    Pin,
    PinSource,
    UserAddress,
)

__all__ = [
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "AddressSpace",
    "Backing",
    "Caller",
    "Capability",
    "EventFd",
    "Extent",
    "File",
    "Host",
    "Iova",
    "MemoryFile",
    "PhysicalAddress",
    "Pin",
    "PinSource",
    "UserAddress",
]
