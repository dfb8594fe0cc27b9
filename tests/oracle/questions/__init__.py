"""What the probe asks, one module for each concept. Each function in `SECTIONS` opens what it needs and asks in order."""

from __future__ import annotations
