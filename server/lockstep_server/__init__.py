"""Lockstep server: serves trained sequence models over gRPC with dynamic batching."""

from __future__ import annotations

__version__: str  # made by `__getattr__`


def __getattr__(name: str) -> str:
    """Read the version when it is asked for: the command line sets its signal handlers before that."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    found = globals()["__version__"] = version("lockstep-inference")
    return found
