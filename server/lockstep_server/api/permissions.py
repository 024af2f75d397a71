"""The permission that each method needs, and what in a message needs more: its model, and its priority."""

from __future__ import annotations

from typing import Any

from .health import OF_NO_MODEL

_OPEN_INFERENCE, _SEQUENCES = "inference.GRPCInferenceService", "lockstep.v1.Sequences"
_OPERATIONS = "lockstep.v1.Operations"
_PEERS = "lockstep.v1.Peers"
_HEALTH, _REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"

_CLASSES: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    ("health",): {
        _HEALTH: ("Check", "Watch", "List"),
        _OPEN_INFERENCE: ("ServerLive", "ServerReady", "ModelReady"),
    },
    ("read",): {
        _OPEN_INFERENCE: (
            "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex",
        ),
        _OPERATIONS: ("Describe",),
        _REFLECTION: ("ServerReflectionInfo",),
    },
    ("infer",): {
        _OPEN_INFERENCE: (
            "ModelInfer", "ModelStreamInfer", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
        ),
        _SEQUENCES: (
            "Classify", "ClassifyMany", "ClassifyTokens", "ClassifyTokensMany", "Encode", "EncodeMany",
            "Follow", "Generate", "Transcribe", "Translate",
        ),
    },
    ("infer", "admin"): {_SEQUENCES: ("GetSequence", "PutSequence")},
    ("admin",): {
        _OPEN_INFERENCE: ("RepositoryModelLoad", "RepositoryModelUnload"),
        _OPERATIONS: ("Runs", "Requests"),
    },
}  # fmt: skip

_SIGNED = {_PEERS: ("Hello", "Offer", "Confirm", "Pull")}
"""Between servers: each message shows by its signature who sends it."""

PERMISSIONS_OF = {
    f"/{service}/{method}": permissions
    for permissions, services in _CLASSES.items()
    for service, methods in services.items()
    for method in methods
}
"""The permissions of which each method needs one. A method that is neither here nor in `SIGNED` is
denied to everybody."""

SIGNED = frozenset(f"/{service}/{method}" for service, methods in _SIGNED.items() for method in methods)
"""The methods that need none, as their messages are signed."""

AUDITED = frozenset(f"/{_OPEN_INFERENCE}/{method}" for method in _CLASSES["admin",][_OPEN_INFERENCE])
"""The methods that change what is served: each call is logged with its caller."""


def model_of(message: Any) -> str:
    """The name of the model that a request is for; "" if it names none."""
    fields = message.DESCRIPTOR.fields_by_name
    if "start" in fields:  # Follow
        return str(message.start.model) if message.WhichOneof("message") == "start" else ""
    if "service" in fields:  # a health check
        return "" if message.service in OF_NO_MODEL else str(message.service)
    for name in ("model_name", "model"):
        if name in fields:
            return str(getattr(message, name))
    if "name" in fields and "version" in fields:  # not the name of a region of shared memory
        return str(message.name)
    return ""


def priority_of(message: Any) -> bool:
    fields = message.DESCRIPTOR.fields_by_name
    if "priority" in fields:
        return bool(message.priority)
    if "start" in fields:
        return bool(getattr(message.start, "priority", 0))
    if "model_name" in fields and "parameters" in fields and "priority" in message.parameters:
        parameter = message.parameters["priority"]
        kind = parameter.WhichOneof("parameter_choice")
        return bool(kind and getattr(parameter, kind))
    return False
