"""A real server with the shipped models."""

from integration.harness import shipped

__all__ = ["shipped"]
