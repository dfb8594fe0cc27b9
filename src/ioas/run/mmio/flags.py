"""The arithmetic flags, where an instruction is carried out here and not by the processor."""

from __future__ import annotations

from ioas.run.mmio.registers import ADJUST, CARRY, OVERFLOW, PARITY, SIGN, ZERO


def of_subtraction(left: int, right: int, size: int) -> int:
    """The flags that comparing `left` with `right` gives, both unsigned numbers of `size` bytes."""
    top = 1 << 8 * size - 1
    result = left - right & 2 * top - 1
    return (
        (CARRY if left < right else 0)
        | (0 if (result & 0xFF).bit_count() & 1 else PARITY)
        | (left ^ right ^ result) & ADJUST
        | (0 if result else ZERO)
        | (SIGN if result & top else 0)
        | (OVERFLOW if (left ^ right) & (left ^ result) & top else 0)
    )
