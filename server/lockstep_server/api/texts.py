"""Texts, or rows of ids, in; labels or vectors out: what Classify, Encode and their Many have in common.

request -> `Texts` -> an `Ask` for each, which shares runs by its own length -> its event -> its answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from ..errors import ServingError, bad_input
from ..frontend.requests import InferenceRequest
from . import tensors
from .replies import labels, timings

if TYPE_CHECKING:
    from .. import messages
    from ..frontend.registry import ServedModel
    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec
    from .instrumentation import Context

Wanted = Callable[["ModelSpec", Any], tuple[str, ...]]
"""The outputs that a request takes; ServingError where the model has none such."""

_MAX_TEXTS = 4096
"""In one request: each is a request of its own in the queue."""


def count(request: pb.ClassifyRequest | pb.EncodeRequest) -> int:
    """How many texts, or rows of ids, it has.

    Raises:
        ServingError: BAD_INPUT, none, both, or too many.
    """
    if bool(request.texts) == bool(request.ids):
        raise bad_input("texts", "send texts or ids, one of them, and not empty")
    found = len(request.texts or request.ids)
    if found > _MAX_TEXTS:
        field = "texts" if request.texts else "ids"
        raise bad_input(field, f"{found} in one call; send {_MAX_TEXTS} at most")
    return found


class TextRequests:
    """Those of one request, each asked by itself.

    Raises:
        ServingError: BAD_INPUT, the request is wrong whichever text is asked. It is counted here, as
            so many `requests`.
    """

    def __init__(
        self,
        served: ServedModel,
        method: str,
        request: pb.ClassifyRequest | pb.EncodeRequest,
        context: Context,
        wanted: Wanted,
        requests: int = 1,
    ) -> None:
        self.served = served
        self._method, self._request = method, request
        self._tensor = served.spec.input(served.spec.text_input)
        try:
            self._outputs = wanted(served.spec, request)
            self._count = count(request)
            self._check()
        except ServingError as error:
            served.refuse(method, error, requests)
            raise
        self._tokens = getattr(request, "attention", False)
        self._remaining_s, self._peer = context.time_remaining(), context.peer()

    def __len__(self) -> int:
        return self._count

    def _check(self) -> None:
        timeout_s, name = self._request.queue_timeout_seconds, self.served.spec.name
        if not (math.isfinite(timeout_s) and timeout_s >= 0):
            raise bad_input("queue_timeout_seconds", f"{timeout_s} does not fit; send seconds, 0 or more")
        if self._request.texts and self.served.spec.manifest.text is None:
            raise bad_input("texts", f"model {name!r} has no tokenizer; send ids")
        if self._request.ids and (self._tensor is None or self._tensor.datatype not in ("INT64", "INT32")):
            raise bad_input("ids", f"model {name!r} takes no ids; call ModelInfer with its tensors")

    def ask(self, index: int) -> InferenceRequest:
        """The request for one of them.

        Raises:
            ServingError: BAD_INPUT, this one is wrong.
        """
        try:
            inputs, text, field = self._text(index) if self._request.texts else self._ids(index)
        except ServingError as error:
            self.served.refuse(self._method, error)
            raise
        return InferenceRequest(
            self.served, self._method, inputs, text, field, self._outputs, self._tokens,
            self._request.priority, self._request.queue_timeout_seconds, self._remaining_s, self._peer,
        )  # fmt: skip

    def _text(self, index: int) -> tuple[Arrays, str | None, str]:
        text, field = self._request.texts[index], f"texts[{index}]"
        if not text.strip():
            raise bad_input(field, "it is empty; send at least one word")
        return {}, text, field

    def _ids(self, index: int) -> tuple[Arrays, str | None, str]:
        row, field = self._request.ids[index], f"ids[{index}]"
        tensor = self._tensor
        assert tensor is not None
        if not row.ids:
            raise bad_input(field, "it is empty; send at least one id")
        array = np.array([row.ids], np.int64)
        tensors.check_ids(tensor, array, field)
        return {tensor.name: array.astype(np.int32) if tensor.datatype == "INT32" else array}, None, field


def scores(spec: ModelSpec, _: pb.ClassifyRequest) -> tuple[str, ...]:
    """The outputs that Classify needs.

    Raises:
        ServingError: BAD_INPUT, the model has none such.
    """
    return (_role(spec, "scores", "classify"),)


def vector(spec: ModelSpec, request: pb.EncodeRequest) -> tuple[str, ...]:
    """The outputs that Encode needs.

    Raises:
        ServingError: BAD_INPUT, the model has none such.
    """
    wanted = (_role(spec, "vector", "encode"),)
    return (*wanted, _role(spec, "attention", "return attention")) if request.attention else wanted


def classification(spec: ModelSpec, request: pb.ClassifyRequest, event: messages.Event) -> pb.Classification:
    """One text's labels."""
    ranked = labels(_output(event, spec.manifest.roles.scores), spec.manifest, request.top_k)
    return pb.Classification(labels=ranked, length=event.length, timings=timings(event))


def encoding(spec: ModelSpec, request: pb.EncodeRequest, event: messages.Event) -> pb.Encoding:
    """One text's vector, and its attention where it was asked for."""
    roles = spec.manifest.roles
    found = pb.Encoding(
        vector=_output(event, roles.vector).ravel().astype(np.float32),
        length=event.length,
        timings=timings(event),
    )
    if request.attention:
        weights = _output(event, roles.attention)[0].astype(np.float32)
        found.attention.CopyFrom(pb.Tensor(shape=weights.shape, values=weights.ravel()))
        found.tokens.extend(event.tokens)
    return found


def who(spec: ModelSpec) -> dict[str, str]:
    """What a reply says of the model that answered."""
    return {"model": spec.name, "version": str(spec.version), "notice": spec.notice}


def _role(spec: ModelSpec, role: str, verb: str) -> str:
    name: str = getattr(spec.manifest.roles, role)
    if not name:
        raise bad_input("model", f"model {spec.name!r} cannot {verb}: its manifest names no roles.{role}")
    return name


def _output(event: messages.Event, name: str) -> Any:
    assert event.outputs is not None
    return event.outputs[name]
