"""`lockstep.v1.Sequences`: texts or ids in; labels and vectors out, or streams of tokens and predictions."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep.v1 import sequences_pb2 as pb
from lockstep.v1 import sequences_pb2_grpc

from ..errors import ServingError, bad_input
from . import codec, decoding
from .calls import Ask, Calls
from .follow import Follow
from .replies import labels, timings
from .streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import port
    from ..models.card import Card
    from ..models.datatypes import Arrays
    from .interceptors import Context
    from .pacing import Pacer
    from .served import Directory, Served

_MAX_SEQUENCES = 4096
"""Texts in one call: each is a request of its own in the queue."""


class Sequences(sequences_pb2_grpc.SequencesServicer):
    """Translates and delegates. Each text is a request of its own, so that it shares runs by its length."""

    def __init__(self, directory: Directory, calls: Calls, pacer: Pacer) -> None:
        self._directory, self._calls, self._pacer = directory, calls, pacer

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyReply:
        served = self._directory.resolve(request.model, request.version)
        scores = _role(served.card, "scores", "classify")
        events = await self._answers(served, "Classify", request, context, (scores,))
        manifest = served.card.manifest
        results = []
        for event in events:
            ranked = labels(_output(event, scores), manifest, request.top_k)
            results.append(pb.Classification(labels=ranked, length=event.length, timings=timings(event)))
        return pb.ClassifyReply(results=results, **_who(served.card))

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeReply:
        served = self._directory.resolve(request.model, request.version)
        wanted = [_role(served.card, "vector", "encode")]
        if request.attention:
            wanted.append(_role(served.card, "attention", "return attention"))
        events = await self._answers(served, "Encode", request, context, tuple(wanted))
        return pb.EncodeReply(results=[_encoding(event, wanted) for event in events], **_who(served.card))

    async def Follow(self, requests: Any, context: Context) -> None:
        await Follow(self._directory, self._calls, context).run()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        served = self._directory.stepwise(request.model, request.version)
        ask = self._checked(served, "Generate", decoding.generation, request, context)
        await Stream(self._calls, self._pacer, ask).write_all(context, decoding.generated(ask))

    async def Translate(self, request: pb.TranslateRequest, context: Context) -> None:
        served = self._directory.stepwise(request.model, request.version)
        ask = self._checked(served, "Translate", decoding.translation, request, context)
        await Stream(self._calls, self._pacer, ask).write_all(context, decoding.translated(ask))

    def _checked(
        self, served: Served, method: str, make: Callable[..., Ask], request: Any, context: Context
    ) -> Ask:
        try:
            return make(served, request, context)
        except ServingError as error:
            served.meters.refused(method, error.meaning.value)
            raise

    async def _answers(
        self,
        served: Served,
        method: str,
        request: pb.ClassifyRequest | pb.EncodeRequest,
        context: Context,
        outputs: tuple[str, ...],
    ) -> list[port.Event]:
        """The events of all sequences of a call, in order; the first error ends the call."""
        try:
            asks = _asks(served, method, request, context, outputs)
        except ServingError as error:
            served.meters.refused(method, error.meaning.value)
            raise
        if len(asks) == 1:
            return [await self._calls.answer(asks[0])]
        tasks = [asyncio.ensure_future(self._calls.answer(ask)) for ask in asks]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()


def _asks(served: Served, method: str, request: Any, context: Context, outputs: tuple[str, ...]) -> list[Ask]:
    """One request for each text or row of ids.

    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    if bool(request.texts) == bool(request.ids):
        raise bad_input("texts", "send texts or ids, one of them, and not empty")
    given = request.texts or request.ids
    if len(given) > _MAX_SEQUENCES:
        raise bad_input(
            "texts" if request.texts else "ids", f"{len(given)} in one call; send {_MAX_SEQUENCES} at most"
        )
    timeout_s = request.queue_timeout_seconds
    if not (math.isfinite(timeout_s) and timeout_s >= 0):
        raise bad_input("queue_timeout_seconds", f"{timeout_s} does not fit; send seconds, 0 or more")
    inputs = _texts(served.card, given) if request.texts else _ids(served.card, given)
    return [
        Ask(
            served, method, arrays, text, field, outputs, getattr(request, "attention", False),
            request.priority, timeout_s, context.time_remaining(), context.peer(),
        )
        for arrays, text, field in inputs
    ]  # fmt: skip


def _texts(card: Card, texts: Any) -> list[tuple[Arrays, str | None, str]]:
    if card.manifest.text is None:
        raise bad_input("texts", f"model {card.name!r} has no tokenizer; send ids")
    for index, text in enumerate(texts):
        if not text.strip():
            raise bad_input(f"texts[{index}]", "it is empty; send at least one word")
    return [({}, text, f"texts[{index}]") for index, text in enumerate(texts)]


def _ids(card: Card, rows: Any) -> list[tuple[Arrays, str | None, str]]:
    tensor = card.input(card.text_input)
    if tensor is None or tensor.datatype not in ("INT64", "INT32"):
        raise bad_input("ids", f"model {card.name!r} takes no ids; call ModelInfer with its tensors")
    found: list[tuple[Arrays, str | None, str]] = []
    for index, row in enumerate(rows):
        field = f"ids[{index}]"
        if not row.ids:
            raise bad_input(field, "it is empty; send at least one id")
        array = np.array([row.ids], np.int64)
        codec.check_ids(tensor, array, field)
        found.append(
            ({tensor.name: array.astype(np.int32) if tensor.datatype == "INT32" else array}, None, field)
        )
    return found


def _role(card: Card, role: str, verb: str) -> str:
    """
    Raises:
        ServingError: BAD_INPUT, the model has no output in this role.
    """
    name: str = getattr(card.manifest.roles, role)
    if not name:
        raise bad_input("model", f"model {card.name!r} cannot {verb}: its manifest names no roles.{role}")
    return name


def _output(event: port.Event, name: str) -> Any:
    assert event.outputs is not None
    return event.outputs[name]


def _encoding(event: port.Event, wanted: list[str]) -> pb.Encoding:
    encoding = pb.Encoding(
        vector=_output(event, wanted[0]).ravel().astype(np.float32),
        length=event.length,
        timings=timings(event),
    )
    if len(wanted) > 1:
        weights = _output(event, wanted[1])[0].astype(np.float32)
        encoding.attention.CopyFrom(pb.Tensor(shape=weights.shape, values=weights.ravel()))
        encoding.tokens.extend(event.tokens)
    return encoding


def _who(card: Card) -> dict[str, str]:
    return {"model": card.name, "version": str(card.version), "notice": card.notice}
