"""What several test directories share."""

from tests.support.lanes import LANES, require

__all__ = ["LANES", "require"]
