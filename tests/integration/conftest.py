"""Fixtures that start real servers; see harness.py."""

from integration.harness import serving, shipped

__all__ = ["serving", "shipped"]
