"""The directory of one PCI function in sysfs (formats: drivers/pci/pci-sysfs.c, 7.3)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping

from ioas.soft.pci import header
from ioas.soft.pci.bars import ROM_INDEX, Bar
from ioas.soft.pci.capabilities import BridgeSubsystem, Pcie, SrIov, pcie
from ioas.soft.pci.function import Function
from ioas.soft.pci.nodes import Text, Tree
from ioas.soft.pci.ports import RootPortWithoutAcs
from ioas.soft.pci.resets import power_state
from ioas.soft.pci.windows import Window, windows_of

# include/linux/ioport.h: what the third column of `resource` is made of, beside the low bits of the register.
_IO = 0x100
_MEMORY = 0x200
_PREFETCH = 0x2000
_READONLY = 0x4000
_SIZEALIGN = 0x40000
_MEMORY_64 = 0x100000

_SRIOV_RESOURCES = 6
"""Lines of `resource` between the ROM's and the bridge windows': the windows of virtual functions' BARs."""
_POWER_STATES = ("D0", "D1", "D2", "D3hot")


def path_of(function: Function) -> str:
    """The function's directory below /sys/devices."""
    port = function.place.bus.port
    above = path_of(port) if port is not None else "/sys/devices/pci0000:00"
    return f"{above}/{function.bdf}"


def uevent(pairs: Mapping[str, str]) -> Text:
    """A uevent file."""
    return Text(_lines(pairs), 0o644)


def _lines(pairs: Mapping[str, str]) -> bytes:
    return "".join(f"{key}={value}\n" for key, value in pairs.items()).encode()


def show_uevent(function: Function, driver: str | None) -> bytes:
    """The contents of `uevent` of a function that is bound to `driver`, or to none."""
    return _lines(_uevent_pairs(function, driver))


def add_function(tree: Tree, function: Function, driver: str | None) -> None:
    """Add the directory of `function`, bound to `driver`, and its link in /sys/bus/pci/devices."""
    path = path_of(function)
    for name, value, mode in [*_identity(function), *_settings(function), *_express(function), *_bridge(function)]:
        tree.add(f"{path}/{name}", _line(value, mode))
    tree.add(f"{path}/uevent", uevent(_uevent_pairs(function, driver)))
    _add_configuration(tree, path, function)
    _add_resources(tree, path, function)
    _add_controls(tree, path, function, driver)
    tree.link(f"{path}/subsystem", "/sys/bus/pci")
    tree.link(f"/sys/bus/pci/devices/{function.bdf}", path)
    if driver is not None:
        tree.link(f"{path}/driver", f"/sys/bus/pci/drivers/{driver}")


def remove_function(tree: Tree, function: Function) -> None:
    """Take the directory of `function`, which has no driver, away, and its link."""
    tree.remove(f"/sys/bus/pci/devices/{function.bdf}")
    tree.remove(path_of(function))


def _line(value: str | Callable[[], str], mode: int) -> Text:
    if callable(value):
        return Text(lambda: f"{value()}\n".encode(), mode)
    return Text(f"{value}\n".encode(), mode)


Attribute = tuple[str, str | Callable[[], str], int]
"""Name, value (or what gives it now), mode."""


def _subsystem(function: Function) -> tuple[int, int]:
    placed = function.find(BridgeSubsystem)
    if placed is not None:
        return placed[0].vendor, placed[0].subsystem
    return function.subsystem_vendor_id, function.subsystem_id


def _identity(function: Function) -> Iterator[Attribute]:
    vendor, subsystem = _subsystem(function)
    yield "vendor", f"{function.vendor_id:#06x}", 0o444
    yield "device", f"{function.device_id:#06x}", 0o444
    yield "subsystem_vendor", f"{vendor:#06x}", 0o444
    yield "subsystem_device", f"{subsystem:#06x}", 0o444
    yield "revision", f"{function.revision_id:#04x}", 0o444
    yield "class", f"{function.class_code:#08x}", 0o444
    yield "modalias", _modalias(function), 0o444


def _modalias(function: Function) -> str:
    vendor, subsystem = _subsystem(function)
    base, sub, interface = function.class_code.to_bytes(3, "big")
    return (
        f"pci:v{function.vendor_id:08X}d{function.device_id:08X}sv{vendor:08X}sd{subsystem:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}"
    )


def _settings(function: Function) -> Iterator[Attribute]:
    yield "irq", lambda: str(function.config.get(header.INTERRUPT_LINE, 1)), 0o444
    yield "enable", "1" if isinstance(function, RootPortWithoutAcs) else "0", 0o644
    yield "numa_node", "-1", 0o644
    yield "local_cpus", cpu_mask(), 0o444
    yield "local_cpulist", cpu_list(), 0o444
    yield "dma_mask_bits", "32", 0o444
    yield "consistent_dma_mask_bits", "32", 0o444
    yield "broken_parity_status", "0", 0o644
    yield "ari_enabled", "0", 0o444
    yield "msi_bus", "1", 0o644
    yield "d3cold_allowed", "0", 0o644
    yield "power_state", lambda: _POWER_STATES[power_state(function)], 0o444
    yield "power/control", "auto", 0o644
    is_port = isinstance(function, RootPortWithoutAcs)
    yield "power/runtime_status", lambda: "active" if is_port or function.in_use else "suspended", 0o444


def cpu_list() -> str:
    """All processors as a list, such as "0-3"."""
    processors = os.cpu_count() or 1
    return f"0-{processors - 1}" if processors > 1 else "0"


def cpu_mask() -> str:
    """All processors as the kernel prints bitmaps: 32-bit words in hexadecimal, separated by commas."""
    bits = (1 << (os.cpu_count() or 1)) - 1
    words: list[str] = []
    while bits >> 32:
        words.append(f"{bits & 0xFFFFFFFF:08x}")
        bits >>= 32
    return ",".join([f"{bits:x}", *reversed(words)])


def _express(function: Function) -> Iterator[Attribute]:
    placed = function.find(Pcie)
    if placed is None:
        return
    speed = f"{pcie.SPEEDS[placed[0].speed]} PCIe"
    for name, value in (("speed", speed), ("width", str(placed[0].width))):
        yield f"current_link_{name}", value, 0o444
        yield f"max_link_{name}", value, 0o444


def _bridge(function: Function) -> Iterator[Attribute]:
    if isinstance(function, RootPortWithoutAcs):
        yield "secondary_bus_number", str(function.config.get(header.SECONDARY_BUS, 1)), 0o444
        yield "subordinate_bus_number", str(function.config.get(header.SUBORDINATE_BUS, 1)), 0o444


def _uevent_pairs(function: Function, driver: str | None) -> Mapping[str, str]:
    vendor, subsystem = _subsystem(function)
    pairs = {"DRIVER": driver} if driver is not None else {}
    return pairs | {
        "PCI_CLASS": f"{function.class_code:04X}",
        "PCI_ID": f"{function.vendor_id:04X}:{function.device_id:04X}",
        "PCI_SUBSYS_ID": f"{vendor:04X}:{subsystem:04X}",
        "PCI_SLOT_NAME": str(function.bdf),
        "MODALIAS": _modalias(function),
    }


def _add_configuration(tree: Tree, path: str, function: Function) -> None:
    config = function.config
    tree.add(f"{path}/config", Text(lambda: config.read(0, config.size), 0o644, store=config.write))


def _add_resources(tree: Tree, path: str, function: Function) -> None:
    tree.add(f"{path}/resource", Text(lambda: _resource(function).encode()))
    for bar in function.bars:
        if bar is None:
            continue
        tree.add(f"{path}/resource{bar.index}", Text(b"", 0o600, size=bar.size))
        if bar.prefetchable:
            tree.add(f"{path}/resource{bar.index}_wc", Text(b"", 0o600, size=bar.size))
    if function.rom is not None:
        tree.add(f"{path}/rom", Text(b"", 0o600, size=function.rom.size))


def _resource(function: Function) -> str:
    """Start, last and flags of each BAR, the ROM, and a bridge's windows; zeros for what is not there."""
    lines = [_bar_line(function, bar) for bar in function.bars]
    lines.append(_bar_line(function, function.rom))
    lines += _virtual_lines(function)
    if isinstance(function, RootPortWithoutAcs):
        lines += [*_window_lines(function), (0, 0, 0)]
    return "".join(f"{start:#018x} {last:#018x} {flags:#018x}\n" for start, last, flags in lines)


def _virtual_lines(function: Function) -> list[tuple[int, int, int]]:
    lines = [(0, 0, 0)] * _SRIOV_RESOURCES
    if (placed := function.find(SrIov)) is not None:
        for window in placed[0].windows(placed[1]):
            start = window.address(function.config)
            lines[window.index] = start, start + window.extent - 1, _flags(window)
    return lines


def _bar_line(function: Function, bar: Bar | None) -> tuple[int, int, int]:
    if bar is None:
        return 0, 0, 0
    start = function.bar_address(bar.index)
    return start, start + bar.size - 1, _flags(bar)


def _flags(bar: Bar) -> int:
    if bar.index == ROM_INDEX:
        return _MEMORY | _PREFETCH | _READONLY | _SIZEALIGN
    flags = bar.flags | _SIZEALIGN | (_IO if bar.is_io else _MEMORY)
    flags |= _PREFETCH if bar.prefetchable else 0
    return flags | (_MEMORY_64 if bar.kind == "mem64" else 0)


def _window_lines(port: Function) -> list[tuple[int, int, int]]:
    windows = windows_of(port)
    return [
        _window_line(windows["io"], _IO | 1),
        _window_line(windows["memory"], _MEMORY),
        _window_line(windows["prefetchable"], _MEMORY_64 | _PREFETCH | _MEMORY | 1),
    ]


def _window_line(window: Window | None, flags: int) -> tuple[int, int, int]:
    return (window.start, window.last, flags) if window is not None else (0, 0, 0)


def _add_controls(tree: Tree, path: str, function: Function, driver: str | None) -> None:
    """Files that take commands. Removing and rescanning are shown, but not served."""
    tree.add(f"{path}/remove", Text(b"", 0o220))
    tree.add(f"{path}/rescan", Text(b"", 0o200))
    override = [driver if driver == "vfio-pci" else "(null)"]

    def set_override(data: bytes) -> None:
        override[0] = data.decode(errors="replace").strip() or "(null)"

    tree.add(f"{path}/driver_override", Text(lambda: f"{override[0]}\n".encode(), 0o644, set_override))
    if isinstance(function, RootPortWithoutAcs):
        tree.add(f"{path}/reset_subordinate", Text(b"", 0o200))
    elif function.reset_methods:
        tree.add(f"{path}/reset", Text(b"", 0o200, lambda data: _reset(function, data)))
        tree.add(f"{path}/reset_method", _line(" ".join(function.reset_methods), 0o644))


def _reset(function: Function, data: bytes) -> None:
    """Follows reset_store: 1 resets. Raises OSError(EINVAL) for anything else."""
    try:
        number = int(data, 0)
    except ValueError:
        number = 0
    if number != 1:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), "reset")
    function.reset_by()
