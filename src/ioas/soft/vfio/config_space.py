"""The configuration space that a program sees: part hardware, part virtual (follows vfio_pci_config.c, 7.3).

A map says for every byte which capability it belongs to; the capability's rule (`permissions`) says which bits come
from the virtual copy and which from the hardware, and which a write reaches. What a write sets off besides - BAR
sizing, INTx masking, power states, function resets - stands in `config_hooks`.
"""

from __future__ import annotations

from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.vfio import permissions as rules
from ioas.soft.vfio.config_hooks import COMMAND, COMMAND_MEMORY, HOOKS
from ioas.soft.vfio.permissions import EXTENDED, HEADER_SIZE, STANDARD, Permissions, Rule

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice

_UNASSIGNED = 0xFF
"""The map's mark for bytes between capabilities: read and written as the hardware has them."""
_RAW = Rule(raw_writes=True)
_EXTENDED_START = 0x100


class ConfigSpace:
    """The virtual configuration space of a device, from its opening to its closing."""

    def __init__(self, device: VfioDevice) -> None:
        """Copy the header and walk the capabilities (vfio_config_init)."""
        self.device = device
        self.hardware = device.function.config
        self.size = self.hardware.size
        self.virtual = bytearray(self.size)
        self._map = bytearray([_UNASSIGNED]) * self.size
        self._map[:HEADER_SIZE] = bytes(HEADER_SIZE)
        self._copy(0, HEADER_SIZE)
        self.real_bars = [self.hardware.get(register, 4) for register in (*range(0x10, 0x28, 4), 0x30)]
        """What the hardware's BARs and ROM register hold, to be put back after a reset behind VFIO's back."""
        if device.is_virtual:
            self._complete_virtual()
        self._msi: Permissions | None = None
        self._walk()
        if self._has_extended():
            self._walk_extended()
        self.fix_bars()

    def _complete_virtual(self) -> None:
        """What a VF's own header does not tell: its ids, and that memory decoding is on. VFs have no INTx."""
        function = self.device.function
        self.virtual[0:4] = function.vendor_id.to_bytes(2, "little") + function.device_id.to_bytes(2, "little")
        self.virtual[0x3D] = 0
        if not function.has_command_memory:
            self.command |= COMMAND_MEMORY

    @property
    def command(self) -> int:
        """The virtual command register."""
        return int.from_bytes(self.virtual[4:6], "little")

    @command.setter
    def command(self, value: int) -> None:
        self.virtual[4:6] = value.to_bytes(2, "little")

    @property
    def interrupt_pin(self) -> int:
        """The virtual interrupt pin; 0: no INTx."""
        return self.virtual[0x3D]

    def read(self, position: int, count: int) -> bytes:
        """What a program reads at `position`. Raises KernelError(EFAULT) beyond the end."""
        data = bytearray()
        while len(data) < count:
            data += self._read_chunk(position + len(data), count - len(data))
        return bytes(data)

    def write(self, position: int, data: bytes) -> None:
        """A program's write; chunks that nothing may write are dropped. Raises KernelError(EFAULT) beyond the end."""
        done = 0
        while done < len(data):
            width = self._chunk(position + done, len(data) - done)
            self._write_chunk(position + done, data[done : done + width])
            done += width

    def start_of(self, position: int) -> int:
        """Where the capability of `position` begins; adjoining ones of one kind count as one, as in 7.3."""
        mark = self._map[position]
        if mark in (rules.BASIC, _UNASSIGNED):
            return 0 if mark == rules.BASIC else position
        base = _EXTENDED_START if position >= _EXTENDED_START else HEADER_SIZE
        while position > base and self._map[position - 1] == mark:
            position -= 1
        return position

    def masked_write(self, position: int, offset: int, data: bytes, masks: Permissions) -> None:
        """Writable virtual bits go to the copy, other writable bits to the hardware (vfio_default_config_write)."""
        width = len(data)
        span = slice(offset, offset + width)
        writable = int.from_bytes(masks.writable[span], "little")
        virtual = int.from_bytes(masks.virtual[span], "little")
        value = int.from_bytes(data, "little")
        if mask := writable & virtual:
            old = int.from_bytes(self.virtual[position : position + width], "little")
            self.virtual[position : position + width] = (old & ~mask | value & mask).to_bytes(width, "little")
        if mask := writable & ~virtual:
            old = int.from_bytes(self.hardware.read(position, width), "little")
            self.hardware.write(position, (old & ~mask | value & mask).to_bytes(width, "little"))

    def fix_bars(self) -> None:
        """Give the virtual BARs the fixed bits that hardware would have: how BARs are sized (vfio_bar_fixup)."""
        upper = None
        for index, bar in enumerate(self.device.function.bars):
            register = 0x10 + 4 * index
            value = int.from_bytes(self.virtual[register : register + 4], "little")
            if upper is not None:
                value, upper = value & upper, None
            elif bar is None:
                value = 0
            else:
                mask = ~(bar.size - 1)
                value = value & mask & 0xFFFF_FFFF | bar.flags
                upper = mask >> 32 & 0xFFFF_FFFF if value & 4 else None
            self.virtual[register : register + 4] = value.to_bytes(4, "little")
        rom = self.device.function.rom
        value = int.from_bytes(self.virtual[0x30:0x34], "little")
        value &= (~(rom.size - 1) | 1) & 0xFFFF_FFFF if rom else 0
        self.virtual[0x30:0x34] = value.to_bytes(4, "little")

    def restore_bars(self) -> None:
        """Put the hardware's BARs back (vfio_bar_restore)."""
        for register, value in zip((*range(0x10, 0x28, 4), 0x30), self.real_bars, strict=True):
            self.hardware.write(register, value.to_bytes(4, "little"))

    def _read_chunk(self, position: int, count: int) -> bytes:
        width = self._chunk(position, count)
        rule, start, masks = self._rule(position)
        offset = position - start
        if masks is None:
            data = self.hardware.read(position, width)
            kept = 4 if position >= _EXTENDED_START else 2
            if rule is not _RAW and offset < kept:
                own = min(width, kept - offset)
                data = bytes(self.virtual[position : position + own]) + data[own:]
            return data
        mask = int.from_bytes(masks.virtual[offset : offset + width], "little")
        own_value = int.from_bytes(self.virtual[position : position + width], "little")
        value = int.from_bytes(self.hardware.read(position, width), "little")
        if position == COMMAND and not self.device.function.has_command_memory:
            mask |= COMMAND_MEMORY
        return (value & ~mask | own_value & mask).to_bytes(width, "little")

    def _write_chunk(self, position: int, data: bytes) -> None:
        rule, start, masks = self._rule(position)
        if masks is not None:
            hook = HOOKS.get(self._map[position]) if position < _EXTENDED_START else None
            if hook is None:
                self.masked_write(position, position - start, data, masks)
            else:
                hook(self, position, position - start, data, masks)
        elif rule.raw_writes:
            self.hardware.write(position, data)

    def _rule(self, position: int) -> tuple[Rule, int, Permissions | None]:
        """The rule for the byte at `position`, where its capability starts, and its masks."""
        mark = self._map[position]
        start = self.start_of(position)
        if mark == _UNASSIGNED:
            return _RAW, start, None
        if position >= _EXTENDED_START:
            rule = EXTENDED.get(mark, _HIDDEN)
            return rule, start, rule.permissions
        rule = STANDARD[mark]
        return rule, start, self._msi if mark == rules.MSI else rule.permissions

    def _chunk(self, position: int, count: int) -> int:
        """How many of `count` bytes one access takes: aligned 4, 2 or 1 within one capability and dword."""
        if position < 0 or position + count > self.size:
            raise refuse(EFAULT, f"configuration space has {self.size} bytes", "address", position)
        mark = self._map[position]
        room = 1
        while (position + room) % 4 and self._map[position + room] == mark:
            room += 1
        count = min(count, room)
        if count >= 4 and position % 4 == 0:
            return 4
        return 2 if count >= 2 and position % 2 == 0 else 1

    def _copy(self, start: int, length: int) -> None:
        self.virtual[start : start + length] = self.hardware.read(start, length)

    def _walk(self) -> None:
        """Mark the capabilities in the map and unlink the hidden ones (vfio_cap_init)."""
        if not self.hardware.get(0x06, 2) & 0x10:
            return
        found = False
        link = 0x34
        start = self.hardware.get(0x34, 1)
        for _ in range((_EXTENDED_START - HEADER_SIZE) // 4):
            if not start:
                break
            mark, following = self.hardware.get(start, 1), self.hardware.get(start + 1, 1)
            length = rules.length_of(STANDARD.get(mark) if mark else None, self.hardware, start)
            if length:
                self._mark(start, mark, length)
                link, found = start + 1, True
            else:
                self.virtual[link] = following
            start = following
        if not found:
            self.virtual[0x06] &= ~0x10

    def _mark(self, start: int, mark: int, length: int) -> None:
        length = min(length, self.size - start)
        self._map[start : start + length] = bytes([mark]) * length
        self._copy(start, length)
        if mark == rules.MSI and self._msi is None and start < _EXTENDED_START:
            self._msi = rules.msi_permissions(self.hardware.get(start + 2, 2))
        if mark == rules.PM and start < _EXTENDED_START:  # PME is the host's affair
            self.virtual[start + 3] &= ~0xF8
            self.virtual[start + 5] &= ~0x81

    def _has_extended(self) -> bool:
        return (
            self.size > _EXTENDED_START
            and rules.EXPRESS in self._map[HEADER_SIZE:_EXTENDED_START]
            and bool(self.hardware.get(_EXTENDED_START, 4))
        )

    def _walk_extended(self) -> None:
        """As `_walk`, for extended capabilities; a hidden first one stays as an empty anchor (vfio_ecap_init)."""
        found = False
        previous = 0
        start = _EXTENDED_START
        for _ in range((self.size - _EXTENDED_START) // 4):
            if start < _EXTENDED_START:
                break
            header = self.hardware.get(start, 4)
            mark, following = header & 0xFFFF, header >> 20 & 0xFFC
            length = rules.length_of(EXTENDED.get(mark), self.hardware, start)
            if not length and previous:
                link = int.from_bytes(self.virtual[previous : previous + 4], "little")
                link = link & ~(0xFFC << 20) | following << 20
                self.virtual[previous : previous + 4] = link.to_bytes(4, "little")
                start = following
                continue
            self._mark(start, mark & 0xFF, length or 4)
            if not length:
                self.virtual[start : start + 4] = (header & 0xFFC << 20).to_bytes(4, "little")
            found = found or bool(length)
            previous, start = start, following
        if not found:
            self.virtual[_EXTENDED_START : _EXTENDED_START + 4] = bytes(4)


_HIDDEN = Rule()
"""A capability that only anchors the list: read from the hardware, its header virtual."""
