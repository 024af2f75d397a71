"""Texts or rows of ids in, labels or vectors out: shared by Classify, Encode and their streaming forms.

request -> `TextRequests` -> one `InferenceRequest` per text -> its event -> classification or encoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ServingError, bad_input, in_field
from ..frontend.admission import CallShare
from ..frontend.callers import current
from ..frontend.inference_request import UNMEASURED, InferenceRequest
from ..frontend.loop_watch import off_loop
from ..model import datatypes
from ..model.spec import RequestSize, measure_request, text_inputs
from . import tensors, wire
from .replies import FEW_LABELS, labels, ranking_steps, timings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..frontend.served_model import ServedModel
    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec
    from .status import Context

TextsRequest = pb.ClassifyRequest | pb.EncodeRequest | pb.ClassifyTokensRequest

OutputsOf = Callable[["ModelSpec", Any], tuple[str, ...]]
"""The output names that a request needs. Raises ServingError if the model lacks one."""

_VECTOR, _ATTENTION = (pb.Encoding.DESCRIPTOR.fields_by_name[one].number for one in ("vector", "attention"))
_VALUES = pb.Tensor.DESCRIPTOR.fields_by_name["values"].number

_MAX_CHARACTERS = 1 << 18
"""Characters of one text. A longer one would take the event loop milliseconds at each of its stages."""

_MAX_IDS = 1 << 18
_MAX_TEXTS = 4096
"""Texts or rows of ids in one message. Each is queued as a separate request."""


def count(request: TextsRequest) -> int:
    """The number of texts or rows of ids in a request.

    Raises:
        ServingError: BAD_INPUT, neither, both, or too many.
    """
    if bool(request.texts) == bool(request.ids):
        sent = "both texts and ids" if request.texts else "neither texts nor ids"
        raise bad_input("texts", f"the request has {sent}; send one of them")
    size = len(request.texts or request.ids)
    if size > _MAX_TEXTS:
        field, noun = ("texts", "texts") if request.texts else ("ids", "rows of ids")
        raise bad_input(field, f"{size} {noun} in one message; send at most {_MAX_TEXTS}")
    return size


def check_text(text: str, field: str) -> None:
    """
    Raises:
        ServingError: BAD_INPUT, the text is too long for any model.
    """
    if len(text) > _MAX_CHARACTERS:
        raise bad_input(field, f"the text has {len(text)} characters; send at most {_MAX_CHARACTERS}")


def check_ids_count(ids: Sequence[int], field: str) -> None:
    """
    Raises:
        ServingError: BAD_INPUT, there are too many ids for any model.
    """
    if len(ids) > _MAX_IDS:
        raise bad_input(field, f"{len(ids)} ids; send at most {_MAX_IDS}")


class TextRequests:
    """The inference requests of one message: one per text or row of ids.

    Raises:
        ServingError: BAD_INPUT, the message as a whole is invalid. It is recorded as that many refused
            `requests`.
    """

    def __init__(
        self,
        served: ServedModel,
        method: str,
        request: TextsRequest,
        context: Context,
        outputs_of: OutputsOf,
        requests: int = 1,
    ) -> None:
        self.served = served
        self._method, self._request = method, request
        self._tensor = served.spec.text_tensor
        try:
            self._outputs = outputs_of(served.spec, request)
            self._count = count(request)
            self._has_texts = bool(request.texts)
            self._check()
        except ServingError as error:
            served.record_refusal(method, error, requests)
            raise
        self._remaining_s, self._peer = context.time_remaining(), current.get().name
        self._call = CallShare() if self._count > 1 else None

    def __len__(self) -> int:
        return self._count

    def _check(self) -> None:
        spec, timeout_s, has_texts = self.served.spec, self._request.queue_timeout_seconds, self._has_texts
        if not (math.isfinite(timeout_s) and timeout_s >= 0):
            raise bad_input("queue_timeout_seconds", f"{timeout_s:g} is out of range; send 0 or more")
        if has_texts and not spec.reads_text:
            raise bad_input("texts", f"model {spec.name!r} has no tokenizer; send ids")
        takes_ids = self._tensor is not None and (
            self._tensor.datatype in datatypes.INTEGERS or spec.reads_text
        )
        if not has_texts and not takes_ids:
            raise bad_input("ids", f"model {spec.name!r} has no input of token ids; call ModelInfer")

    def inference(self, index: int) -> InferenceRequest:
        """The inference request for the text or row of ids at `index`.

        Raises:
            ServingError: BAD_INPUT, that text or row is invalid. It is recorded as refused.
        """
        try:
            return self._text(index) if self._has_texts else self._ids(index)
        except ServingError as error:
            self.served.record_refusal(self._method, error)
            raise

    def _text(self, index: int) -> InferenceRequest:
        text, field = self._request.texts[index], f"texts[{index}]"
        check_text(text, field)
        if not text.strip():
            raise bad_input(field, "the text is empty; send at least one word")
        return self._make(field, {}, UNMEASURED, text)

    def _ids(self, index: int) -> InferenceRequest:
        row, field = self._request.ids[index], f"ids[{index}]"
        tensor = self._tensor
        assert tensor is not None
        if not row.ids:
            raise bad_input(field, "the row of ids is empty; send at least one id")
        check_ids_count(row.ids, field)
        ids = np.array(row.ids[:], np.int64)  # a list is read faster than what protobuf has
        tensors.check_ids(tensor, ids, field)
        inputs = text_inputs(self.served.spec, ids)
        try:
            size = measure_request(self.served.spec, inputs)
        except ServingError as error:
            raise in_field(error, field) from None
        return self._make(field, inputs, size, None)

    def _make(self, field: str, inputs: Arrays, size: RequestSize, text: str | None) -> InferenceRequest:
        message = messages.Infer(
            key=0,
            model=self.served.spec.name,
            version=self.served.spec.version,
            inputs=inputs,
            size=size,
            outputs=self._outputs,
            by_role=True,
            field=field,
            priority=self._request.priority,
            caller=self._peer,
        )
        return InferenceRequest(
            self.served,
            self._method,
            message,
            text,
            queue_timeout_s=self._request.queue_timeout_seconds,
            remaining_s=self._remaining_s,
            call=self._call,
            needs_places=isinstance(self._request, pb.ClassifyTokensRequest),
        )


def classify_outputs(spec: ModelSpec, _: pb.ClassifyRequest) -> tuple[str, ...]:
    """The output names that Classify needs.

    Raises:
        ServingError: BAD_INPUT, the model has no scores and labels for a text.
    """
    scores = output_name(spec, "scores", "classify")
    if spec.classifies_tokens:
        raise bad_input("model", f"model {spec.name!r} has labels for each word; call ClassifyTokens")
    if not spec.classifies:
        why = (
            "its manifest has no labels"
            if spec.manifest.task == "tensor"
            else f"its task is {spec.manifest.task!r}"
        )
        raise bad_input("model", f"model {spec.name!r} cannot classify: {why}")
    return (scores,)


def encode_outputs(spec: ModelSpec, request: pb.EncodeRequest) -> tuple[str, ...]:
    """The output names that Encode needs.

    Raises:
        ServingError: BAD_INPUT, the model has no vector, or no attention although it is requested.
    """
    names = (output_name(spec, "vector", "encode"),)
    return (*names, output_name(spec, "attention", "return attention")) if request.attention else names


async def classification(
    spec: ModelSpec, request: pb.ClassifyRequest, event: messages.Event
) -> pb.Classification:
    scores, manifest = output_of(event, spec.manifest.roles.scores), spec.manifest
    if scores.size <= FEW_LABELS:
        ranked = labels(scores, manifest, request.top_k)
    else:
        steps = ranking_steps(scores, 1, request.top_k)
        ranked = await off_loop(steps, labels, scores, manifest, request.top_k)
    return pb.Classification(labels=ranked, length=event.length, timings=timings(event))


def encoding(
    spec: ModelSpec, request: pb.EncodeRequest, event: messages.Event, tokens: list[str] | None
) -> list[wire.Part]:
    """The bytes of one text's `Encoding`, in parts: its vector, and its attention and tokens if requested.
    `tokens` is None if the text was sent as ids."""
    roles = spec.manifest.roles
    result = pb.Encoding(length=event.length, timings=timings(event))
    parts = wire.packed_floats(_VECTOR, output_of(event, roles.vector))
    if request.attention:
        weights = output_of(event, roles.attention)[0]
        shape = pb.Tensor(shape=weights.shape).SerializeToString()
        parts += wire.delimited(_ATTENTION, shape, *wire.packed_floats(_VALUES, weights))
        result.tokens.extend(tokens or [])
    return [result.SerializeToString(), *parts]


def model_fields(spec: ModelSpec) -> dict[str, str]:
    """The reply fields that identify the model."""
    return {"model": spec.name, "version": str(spec.version), "notice": spec.notice}


def output_name(spec: ModelSpec, role: str, verb: str) -> str:
    """
    Raises:
        ServingError: BAD_INPUT, the model has no output of this role.
    """
    name: str = getattr(spec.manifest.roles, role)
    if not name:
        raise bad_input("model", f"model {spec.name!r} cannot {verb}: its manifest has no roles.{role}")
    return name


def output_of(event: messages.Event, name: str) -> Any:
    assert event.outputs is not None
    return event.outputs[name]
