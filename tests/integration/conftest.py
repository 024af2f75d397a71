"""The fixtures of a real server; see harness.py."""

from integration.harness import serving, shipped

__all__ = ["serving", "shipped"]
