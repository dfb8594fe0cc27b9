"""Mapped BARs: loads and stores of unmodified programs, carried out on device models (docs/mmio.md)."""
