"""`lockstep.v1.Sequences`: texts or ids in; labels, vectors, or streams of tokens and predictions out."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_proto.v1 import sequences_pb2_grpc

from ..errors import ServingError
from ..frontend.loop_watch import Turns, await_in_turns, in_turns
from . import generate, texts, token_spans, transcribe, wire
from .follow import Follow
from .generate_stream import TokenStream, write_samples
from .text_stream import ClassifyMany, ClassifyTokensMany, EncodeMany

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages
    from ..frontend.flush_control import FlushController
    from ..frontend.inference_request import InferenceRequest
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..frontend.served_model import ServedModel
    from .inflight import StreamLimits
    from .sequence_states import StateCalls
    from .status import Context


_RESULTS = pb.EncodeReply.DESCRIPTOR.fields_by_name["results"].number


class Sequences(sequences_pb2_grpc.SequencesServicer):
    """Each text of a call is a separate request, so that it is batched with texts of similar length."""

    def __init__(
        self,
        registry: ModelRegistry,
        requests: InFlightRequests,
        flush_control: FlushController,
        *,
        limits: StreamLimits,
        state_calls: StateCalls,
    ) -> None:
        self._registry, self._requests, self._flush_control = registry, requests, flush_control
        self._limits, self._state_calls = limits, state_calls

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyReply:
        served = self._registry.resolve(request.model, request.version, "Classify")
        answered = await self._infer_texts(served, "Classify", request, context, texts.classify_outputs)
        classified = (texts.classification(served.spec, request, event) for _, event in answered)
        results = [await next(classified)] if len(answered) == 1 else await await_in_turns(classified)
        return pb.ClassifyReply(results=results, **texts.model_fields(served.spec))

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> bytes:
        served = self._registry.resolve(request.model, request.version, "Encode")
        answered = await self._infer_texts(served, "Encode", request, context, texts.encode_outputs)
        fields: Any = texts.model_fields(served.spec)
        results = await in_turns(
            wire.delimited(_RESULTS, *texts.encoding(served.spec, request, event, text.tokens))
            for text, event in answered
        )
        return await wire.join([pb.EncodeReply(**fields).SerializeToString(), *itertools.chain(*results)])

    async def Transcribe(self, request: pb.TranscribeRequest, context: Context) -> pb.TranscribeReply:
        requests = max(len(request.frames), 1)
        served = self._registry.resolve(request.model, request.version, "Transcribe", requests)
        try:
            inferences = await in_turns(transcribe.inferences(served, request, context))
        except ServingError as error:
            served.record_refusal("Transcribe", error)
            raise
        events = await self._infer_all(inferences)
        results = await in_turns(transcribe.transcript(served.spec, event) for event in events)
        return pb.TranscribeReply(results=results, **texts.model_fields(served.spec))

    async def ClassifyTokens(
        self, request: pb.ClassifyTokensRequest, context: Context
    ) -> pb.ClassifyTokensReply:
        served = self._registry.resolve(request.model, request.version, "ClassifyTokens")
        answered = await self._infer_texts(served, "ClassifyTokens", request, context, token_spans.outputs)
        results = await await_in_turns(
            token_spans.classification(served.spec, request, event, text) for text, event in answered
        )
        return pb.ClassifyTokensReply(results=results, **texts.model_fields(served.spec))

    async def ClassifyTokensMany(self, requests: Any, context: Context) -> None:
        await ClassifyTokensMany(self._registry, self._requests, context, self._limits).run()

    async def ClassifyMany(self, requests: Any, context: Context) -> None:
        await ClassifyMany(self._registry, self._requests, context, self._limits).run()

    async def EncodeMany(self, requests: Any, context: Context) -> None:
        await EncodeMany(self._registry, self._requests, context, self._limits).run()

    async def Follow(self, requests: Any, context: Context) -> None:
        await Follow(self._registry, self._requests, context, self._limits.stall_s).run()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        served = self._registry.stepwise(request.model, request.version, "Generate")
        inference = self._validated(served, "Generate", generate.generate_request, request, context)
        if request.samples > 1:
            inferences = generate.samples(inference, request.samples)
            streams = [TokenStream(self._requests, self._flush_control, each) for each in inferences]
            await write_samples(
                streams, context, [*map(generate.generate_replies, inferences, itertools.count())]
            )
            return
        stream = TokenStream(self._requests, self._flush_control, inference)
        await stream.write_all(context, generate.generate_replies(inference))

    async def Translate(self, request: pb.TranslateRequest, context: Context) -> None:
        served = self._registry.stepwise(request.model, request.version, "Translate")
        inference = self._validated(served, "Translate", generate.translate_request, request, context)
        stream = TokenStream(self._requests, self._flush_control, inference)
        await stream.write_all(context, generate.translate_replies(inference))

    async def GetSequence(self, request: pb.GetSequenceRequest, context: Context) -> pb.GetSequenceReply:
        return await self._state_calls.get(request)

    async def PutSequence(self, request: pb.PutSequenceRequest, context: Context) -> pb.PutSequenceReply:
        return await self._state_calls.put(request, context)

    def _validated(
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
            served.record_refusal(method, error)
            raise

    async def _infer_texts(
        self,
        served: ServedModel,
        method: str,
        request: texts.TextsRequest,
        context: Context,
        outputs_of: texts.OutputsOf,
    ) -> list[tuple[InferenceRequest, messages.Event]]:
        """Send one request per text. Returns requests and events in order; the first error ends the call."""
        text_requests = texts.TextRequests(served, method, request, context, outputs_of)
        if len(text_requests) == 1:
            inference = text_requests.inference(0)
            return [(inference, await self._requests.infer(inference))]
        inferences = await in_turns(map(text_requests.inference, range(len(text_requests))))
        return list(zip(inferences, await self._infer_all(inferences), strict=True))

    async def _infer_all(self, inferences: list[InferenceRequest]) -> list[messages.Event]:
        """The events of requests, in order; the first error ends the call."""
        turns = Turns()
        tasks: list[asyncio.Task[messages.Event]] = []
        try:
            for inference in inferences:
                tasks.append(asyncio.ensure_future(self._requests.infer(inference)))
                await turns.end()
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
