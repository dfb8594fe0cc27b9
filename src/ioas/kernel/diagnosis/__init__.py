"""What inspection finds out about a call that the running kernel refused: an errno alone says little."""

from ioas.kernel.diagnosis.calls import why_refused
from ioas.kernel.diagnosis.nodes import why_not_opened

__all__ = ["why_not_opened", "why_refused"]
