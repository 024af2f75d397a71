"""Lockstep server: serves trained sequence models over gRPC with dynamic batching."""

from importlib.metadata import version

__version__ = version("lockstep-inference")
