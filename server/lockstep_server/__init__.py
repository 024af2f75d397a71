"""Lockstep's server: trained sequence models over gRPC, batched and in lockstep."""

from importlib.metadata import version

__version__ = version("lockstep-inference")
