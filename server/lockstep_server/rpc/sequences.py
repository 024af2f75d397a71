"""`lockstep.v1.Sequences`: texts or ids in; labels and vectors out, or streams of tokens and predictions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lockstep.v1 import sequences_pb2 as pb
from lockstep.v1 import sequences_pb2_grpc

from ..errors import ServingError
from . import decoding, texts
from .follow import Follow
from .many import ClassifyMany, EncodeMany
from .streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import port
    from .calls import Ask, Calls
    from .interceptors import Context
    from .pacing import Pacer
    from .served import Directory, Served


class Sequences(sequences_pb2_grpc.SequencesServicer):
    """Translates and delegates. Each text is a request of its own, so that it shares runs by its length."""

    def __init__(self, directory: Directory, calls: Calls, pacer: Pacer, *, max_inflight: int) -> None:
        self._directory, self._calls, self._pacer = directory, calls, pacer
        self._max_inflight = max_inflight

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyReply:
        served = self._directory.resolve(request.model, request.version, "Classify")
        events = await self._answers(served, "Classify", request, context, texts.scores)
        results = [texts.classification(served.card, request, event) for event in events]
        return pb.ClassifyReply(results=results, **texts.who(served.card))

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeReply:
        served = self._directory.resolve(request.model, request.version, "Encode")
        events = await self._answers(served, "Encode", request, context, texts.vector)
        results = [texts.encoding(served.card, request, event) for event in events]
        return pb.EncodeReply(results=results, **texts.who(served.card))

    async def ClassifyMany(self, requests: Any, context: Context) -> None:
        await ClassifyMany(self._directory, self._calls, context, self._max_inflight).run()

    async def EncodeMany(self, requests: Any, context: Context) -> None:
        await EncodeMany(self._directory, self._calls, context, self._max_inflight).run()

    async def Follow(self, requests: Any, context: Context) -> None:
        await Follow(self._directory, self._calls, context).run()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        served = self._directory.stepwise(request.model, request.version, "Generate")
        ask = self._checked(served, "Generate", decoding.generation, request, context)
        await Stream(self._calls, self._pacer, ask).write_all(context, decoding.generated(ask))

    async def Translate(self, request: pb.TranslateRequest, context: Context) -> None:
        served = self._directory.stepwise(request.model, request.version, "Translate")
        ask = self._checked(served, "Translate", decoding.translation, request, context)
        await Stream(self._calls, self._pacer, ask).write_all(context, decoding.translated(ask))

    def _checked(
        self, served: Served, method: str, make: Callable[..., Ask], request: Any, context: Context
    ) -> Ask:
        try:
            return make(served, request, context)
        except ServingError as error:
            served.refuse(method, error)
            raise

    async def _answers(
        self,
        served: Served,
        method: str,
        request: pb.ClassifyRequest | pb.EncodeRequest,
        context: Context,
        wanted: texts.Wanted,
    ) -> list[port.Event]:
        """The events of all texts of a call, in order; the first error ends the call."""
        asked = texts.Texts(served, method, request, context, wanted)
        asks = [asked.ask(index) for index in range(len(asked))]
        if len(asks) == 1:
            return [await self._calls.answer(asks[0])]
        tasks = [asyncio.ensure_future(self._calls.answer(ask)) for ask in asks]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
