"""Errors in words for the person at the page: what is wrong, and what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lockstep_client.errors import (
    DeadlineExceeded,
    Denied,
    InvalidRequest,
    LockstepError,
    ModelNotFound,
    Overloaded,
    ServerFailure,
    Unauthenticated,
    Unavailable,
    Unreachable,
    Unsupported,
)

_ADVICE: dict[type[LockstepError], tuple[int, str]] = {
    Unreachable: (502, "Start one with `make serve`, or start this page with --address HOST:PORT."),
    Unavailable: (503, "Wait until the model is ready, then try again. The view Models shows its state."),
    ModelNotFound: (404, "Choose another model. The view Models lists what the server has."),
    InvalidRequest: (400, "Change what the message names, then try again."),
    Overloaded: (429, "Other callers keep the server busy: try again in a moment."),
    DeadlineExceeded: (504, "Try a shorter text, or start this page with a longer --timeout."),
    Unauthenticated: (401, "Set LOCKSTEP_TOKEN where this page is started, and start it again."),
    Denied: (403, "The token of this page may not do this. Ask whoever keeps the server's auth file."),
    Unsupported: (501, "Choose another model, or serve it with a Lockstep server of this version."),
    ServerFailure: (500, "The server's log has the reason, under the id in the message."),
    LockstepError: (500, "Try again."),
}


@dataclass(frozen=True)
class Problem:
    """What the page shows instead of an answer."""

    kind: str
    message: str
    advice: str
    status: int
    """Of HTTP."""


def of_error(error: LockstepError, address: str) -> Problem:
    """The problem for an error of a call to the server at `address`."""
    status, advice = next(_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE)
    message = error.message
    for one in error.violations:  # a field of the RPC says nothing here
        message = message.removeprefix(f"{one.field}: ")
    if isinstance(error, Unreachable):
        message = f"No server answers at {address}."
    elif isinstance(error, Overloaded) and error.retry_after_s:
        advice = f"Other callers keep the server busy: try again in {math.ceil(error.retry_after_s)} s."
    return Problem(error.meaning, _sentence(message), advice, status)


def of_request(message: str) -> Problem:
    """The problem of a request that this program refuses, before it calls the server."""
    return Problem("invalid_request", _sentence(message), _ADVICE[InvalidRequest][1], 400)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}"
