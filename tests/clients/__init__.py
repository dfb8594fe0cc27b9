"""Tests of other people's programs."""
