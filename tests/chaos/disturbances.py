"""What callers do to their own calls, and which statuses that explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

WRITE_FAILED = "WRITE_FAILED"
"""Not a status: grpc.aio reports a write that failed, and not why. Only callers that cut their own calls may
see it, as the server waits for what is on its way before it ends a stream with an error."""

_CANCELLED = frozenset({"CANCELLED"})
_LATE = frozenset({"DEADLINE_EXCEEDED", "CANCELLED", WRITE_FAILED})
"""grpc.aio cancels a stream if it finds, with its next message in hand, that the deadline has passed."""

_CUT = frozenset({"UNAVAILABLE", WRITE_FAILED})


@dataclass(frozen=True)
class Disturbance:
    """By default nothing: the caller waits for its answer and reads it at once.

    Args:
        cancel_s: cancel the call after so many seconds.
        timeout_s: the deadline of the call.
        reset_bytes: reset the connection after so many bytes of the request.
        pause_s: read nothing for so long, before the first reply.
        unread: leave the stream after this many replies.
        close_after: send so many messages of the stream, and then only close it.
    """

    name: str = "none"
    may: frozenset[str] = frozenset()
    cancel_s: float | None = None
    timeout_s: float | None = None
    reset_bytes: int | None = None
    pause_s: float = 0.0
    unread: int | None = None
    close_after: int | None = None


NONE = Disturbance()


def draw(rng: random.Random, *, replies: bool, sends: bool) -> Disturbance:
    """A disturbance for a call whose replies are a stream, or whose requests are.

    Half of all calls are left alone.
    """
    kinds = ["none"] * 6 + ["cancel", "deadline", "reset", "cancel", "deadline"]
    kinds += ["pause", "leave"] * replies + ["half-close"] * sends
    kind = rng.choice(kinds)
    short_s = rng.choice((0.0, 0.001, 0.01, 0.1)) * rng.random()
    match kind:
        case "cancel":
            return Disturbance(kind, _CANCELLED, cancel_s=short_s)
        case "deadline":
            return Disturbance(kind, _LATE, timeout_s=short_s + 0.001)
        case "reset":
            return Disturbance(kind, _CUT, reset_bytes=rng.choice((10, 60, 200, 300, 400, 600, 1000)))
        case "pause":  # rarely for longer than the server waits
            long_s = rng.choice((0.01, 0.1, 0.1, 0.5)) * rng.random() * (10 if rng.random() < 0.02 else 1)
            return Disturbance(kind, frozenset({"FAILED_PRECONDITION"}), pause_s=long_s)
        case "leave":
            return Disturbance(kind, _CANCELLED, unread=rng.randint(0, 3))
        case "half-close":
            return Disturbance(kind, close_after=rng.randint(0, 3))
    return NONE
