"""The machine's physical memory: frames with synthetic physical addresses, pins, accounting."""

from ioas.soft.memory.accounting import Accounting, AccountMode
from ioas.soft.memory.failures import Failures
from ioas.soft.memory.frames import Run, Segment
from ioas.soft.memory.held import Held
from ioas.soft.memory.memory import Memory
from ioas.soft.memory.sightings import Sighting, Sightings
from ioas.soft.memory.spans import Span

__all__ = ["AccountMode", "Accounting", "Failures", "Held", "Memory", "Run", "Segment", "Sighting", "Sightings", "Span"]
