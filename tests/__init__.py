"""The tests, by what they trust (see docs/architecture.md)."""
