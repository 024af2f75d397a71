"""A real server on the models that ship."""

from integration.harness import shipped

__all__ = ["shipped"]
