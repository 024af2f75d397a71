"""`lockstep.v1.Sequences`: texts or ids in; labels and vectors out, or streams of tokens and predictions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_proto.v1 import sequences_pb2_grpc

from ..errors import ServingError
from . import generate, texts
from .follow import Follow
from .generate_stream import TokenStream
from .text_stream import ClassifyMany, EncodeMany

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages
    from ..frontend.flush_control import FlushController
    from ..frontend.registry import ModelRegistry, ServedModel
    from ..frontend.requests import InferenceRequest, InFlightRequests
    from .instrumentation import Context


class Sequences(sequences_pb2_grpc.SequencesServicer):
    """Translates and delegates. Each text is a request of its own, so that it shares runs by its length."""

    def __init__(
        self,
        registry: ModelRegistry,
        calls: InFlightRequests,
        flush_control: FlushController,
        *,
        max_inflight: int,
    ) -> None:
        self._registry, self._calls, self._flush_control = registry, calls, flush_control
        self._max_inflight = max_inflight

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyReply:
        served = self._registry.resolve(request.model, request.version, "Classify")
        events = await self._answers(served, "Classify", request, context, texts.scores)
        results = [texts.classification(served.spec, request, event) for event in events]
        return pb.ClassifyReply(results=results, **texts.who(served.spec))

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeReply:
        served = self._registry.resolve(request.model, request.version, "Encode")
        events = await self._answers(served, "Encode", request, context, texts.vector)
        results = [texts.encoding(served.spec, request, event) for event in events]
        return pb.EncodeReply(results=results, **texts.who(served.spec))

    async def ClassifyMany(self, requests: Any, context: Context) -> None:
        await ClassifyMany(self._registry, self._calls, context, self._max_inflight).run()

    async def EncodeMany(self, requests: Any, context: Context) -> None:
        await EncodeMany(self._registry, self._calls, context, self._max_inflight).run()

    async def Follow(self, requests: Any, context: Context) -> None:
        await Follow(self._registry, self._calls, context).run()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        served = self._registry.stepwise(request.model, request.version, "Generate")
        ask = self._checked(served, "Generate", generate.generation, request, context)
        await TokenStream(self._calls, self._flush_control, ask).write_all(context, generate.generated(ask))

    async def Translate(self, request: pb.TranslateRequest, context: Context) -> None:
        served = self._registry.stepwise(request.model, request.version, "Translate")
        ask = self._checked(served, "Translate", generate.translation, request, context)
        await TokenStream(self._calls, self._flush_control, ask).write_all(context, generate.translated(ask))

    def _checked(
        self,
        served: ServedModel,
        method: str,
        make: Callable[..., InferenceRequest],
        request: Any,
        context: Context,
    ) -> InferenceRequest:
        try:
            return make(served, request, context)
        except ServingError as error:
            served.refuse(method, error)
            raise

    async def _answers(
        self,
        served: ServedModel,
        method: str,
        request: pb.ClassifyRequest | pb.EncodeRequest,
        context: Context,
        wanted: texts.Wanted,
    ) -> list[messages.Event]:
        """The events of all texts of a call, in order; the first error ends the call."""
        asked = texts.TextRequests(served, method, request, context, wanted)
        asks = [asked.ask(index) for index in range(len(asked))]
        if len(asks) == 1:
            return [await self._calls.answer(asks[0])]
        tasks = [asyncio.ensure_future(self._calls.answer(ask)) for ask in asks]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
