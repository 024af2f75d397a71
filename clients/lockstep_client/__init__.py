"""The Python client of Lockstep: `Client` and `AsyncClient`, their result types and their errors.

    from lockstep_client import Client

    with Client("localhost:8001") as client:
        for answer in client.classify("sentiment-lstm", ["a fine film", "a dull one"]):
            print(answer.best.name, answer.best.probability)
        for part in client.generate("shakespeare-char-lstm", "ROMEO:", max_tokens=200):
            print(part.text, end="", flush=True)

Names are imported on first use, so `import lockstep_client` itself imports neither gRPC nor numpy.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = (
    False  # as in `typing`: the command handles Ctrl-C before anything that takes long is imported
)
if TYPE_CHECKING:
    from typing import Any

    from lockstep_client.client import AsyncClient, Client
    from lockstep_client.decoding import Decoding
    from lockstep_client.errors import (
        Cancelled,
        DeadlineExceeded,
        Denied,
        InvalidRequest,
        LockstepError,
        ModelNotFound,
        Overloaded,
        SequenceLost,
        ServerFailure,
        Unauthenticated,
        Unavailable,
        Unreachable,
        Unsupported,
        Violation,
    )
    from lockstep_client.many import AsyncOutcomes, Outcomes
    from lockstep_client.operations import EndedRequest, ModelForm, Run, RunCost, TensorForm
    from lockstep_client.results import (
        Classification,
        Duration,
        Encoding,
        Health,
        InferResult,
        Label,
        LabeledSpan,
        ModelMetadata,
        ModelState,
        ModelStatistics,
        Outcome,
        ServerInfo,
        TensorSpec,
        Timings,
        TokenClassification,
        Transcript,
        TranscriptToken,
    )
    from lockstep_client.sequences import LiveSequence, SequenceState
    from lockstep_client.stream_results import (
        FLUSH,
        Alternative,
        Flush,
        Generation,
        GenerationPart,
        Prediction,
        TopTokens,
        Translation,
        TranslationPart,
    )
    from lockstep_client.streams import AsyncStream, Stream
    from lockstep_client.tls import Tls

__all__ = [
    "FLUSH",
    "Alternative",
    "AsyncClient",
    "AsyncOutcomes",
    "AsyncStream",
    "Cancelled",
    "Classification",
    "Client",
    "DeadlineExceeded",
    "Decoding",
    "Denied",
    "Duration",
    "Encoding",
    "EndedRequest",
    "Flush",
    "Generation",
    "GenerationPart",
    "Health",
    "InferResult",
    "InvalidRequest",
    "Label",
    "LabeledSpan",
    "LiveSequence",
    "LockstepError",
    "ModelForm",
    "ModelMetadata",
    "ModelNotFound",
    "ModelState",
    "ModelStatistics",
    "Outcome",
    "Outcomes",
    "Overloaded",
    "Prediction",
    "Run",
    "RunCost",
    "SequenceLost",
    "SequenceState",
    "ServerFailure",
    "ServerInfo",
    "Stream",
    "TensorForm",
    "TensorSpec",
    "Timings",
    "Tls",
    "TokenClassification",
    "TopTokens",
    "Transcript",
    "TranscriptToken",
    "Translation",
    "TranslationPart",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "Unsupported",
    "Violation",
]


_MODULES = (
    "results", "stream_results", "errors", "streams", "many", "tls", "client", "decoding", "operations",
    "sequences",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"lockstep_client.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
