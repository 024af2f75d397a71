"""The streams of the fake server: scripted messages, and a Follow that splits words as the real one does."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

LAST = pb.Timings(
    queue_seconds=0.25, compute_seconds=0.5, steps=4, batch_rows=2.5, prefill_seconds=0.125,
    first_token_seconds=0.375,
)  # fmt: skip
GENERATED = (
    pb.GenerateReply(tokens=[4, 5], text="ab", log_probabilities=[-0.5, -0.25], notice="unbatched"),
    pb.GenerateReply(tokens=[6], text="\nc", log_probabilities=[-1]),
    pb.GenerateReply(
        tokens=[7], text="d", log_probabilities=[-2], reason=pb.STOP_REASON_LENGTH, timings=LAST, seed=11
    ),
)
TRANSLATED = (
    pb.TranslateReply(
        tokens=[8],
        text="un",
        pieces=["un"],
        source_tokens=["a", "man"],
        attention=[pb.AttentionRow(weights=[0.75, 0.25])],
    ),
    pb.TranslateReply(
        tokens=[9, 3],
        text=" homme",
        pieces=["homme", "</s>"],
        attention=[pb.AttentionRow(weights=[0.25, 0.75]), pb.AttentionRow(weights=[0.5, 0.5])],
        reason=pb.STOP_REASON_END,
        timings=LAST,
    ),
)


@dataclass
class Streams:
    """Scripts of the streams: messages, failures, and events to wait for, in order."""

    generated: list[Any] = field(default_factory=lambda: list(GENERATED))
    translated: list[Any] = field(default_factory=lambda: list(TRANSLATED))
    followed: list[Any] = field(default_factory=list)
    """Sent before the predictions."""
    received: list[Any] = field(default_factory=list)
    """Messages received by Follow."""
    reencoding: tuple[str, ...] = ()
    """Models that compute the whole prefix for each element; the others compute one step."""
    longest: int = 1 << 30
    step_s: float = 0.001
    left: threading.Event = field(default_factory=threading.Event)
    """A stream was cancelled by its client."""
    ended: threading.Event = field(default_factory=threading.Event)
    """A stream has ended, whichever side ended it; `left` is set before."""

    def generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        return self._play(self.generated, context)

    def translate(self, request: pb.TranslateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        return self._play(self.translated, context)

    def follow(
        self, model: str, requests: Iterator[pb.FollowRequest], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        yield from self._play(self.followed, context)
        for position, element in enumerate(self._elements(requests), start=1):
            if position > self.longest:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"longer than {self.longest} elements")
            yield self._prediction(position, element, position if model in self.reencoding else 1)

    def _play(self, script: list[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        # gRPC has no public API for this: a cancelled stream may still have ended with a status.
        def note() -> None:
            if context._state.client == "cancelled":  # type: ignore[attr-defined]
                self.left.set()
            self.ended.set()

        context.add_callback(note)
        for one in script:
            if isinstance(one, threading.Event):
                while context.is_active() and not one.wait(0.01):
                    pass
            elif hasattr(one, "end"):
                one.end(context)
            else:
                yield one

    def _elements(self, requests: Iterator[pb.FollowRequest]) -> Iterator[str]:
        held = ""
        for request in requests:
            self.received.append(request)
            if request.WhichOneof("message") == "ids":
                yield from (f"#{one}" for one in request.ids.ids)
            *whole, held = re.split(r"\s", held + request.text + " " * request.flush)
            yield from filter(None, whole)
        yield from filter(None, [held])

    def _prediction(self, position: int, element: str, computed: int) -> pb.FollowReply:
        return pb.FollowReply(
            position=position,
            id=position + 10,
            element=element,
            labels=[
                pb.Label(name="positive", index=1, probability=0.75),
                pb.Label(name="negative", probability=0.25),
            ],
            computed_elements=computed,
            timings=pb.Timings(compute_seconds=self.step_s * computed, steps=1, batch_rows=1),
        )
