"""Transcribe: frames in, text out, by a CTC model; and the text of a stream of frames.

the best label of each frame → repetitions and blanks removed → tokens with their frames → text

Source: https://www.cs.toronto.edu/~graves/icml_2006.pdf, best path decoding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ServingError, bad_input, in_field
from ..frontend.admission import CallShare
from ..frontend.callers import current
from ..frontend.inference_request import InferenceRequest
from ..model.spec import measure_request
from . import frames
from .replies import timings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..frontend.served_model import ServedModel
    from ..model.spec import ModelSpec
    from .status import Context

    Array = np.ndarray[Any, Any]

_MAX_SEQUENCES = 4096
"""Sequences in one message. Each is queued as a separate request."""


def inferences(
    served: ServedModel, request: pb.TranscribeRequest, context: Context
) -> Iterator[InferenceRequest]:
    """A request for each sequence of frames.

    Raises:
        ServingError: BAD_INPUT, the model is no CTC model, or a sequence is invalid.
    """
    spec, timeout_s = served.spec, request.queue_timeout_seconds
    if not spec.transcribes:
        why = f"model {spec.name!r} cannot transcribe: its task is {spec.manifest.task!r}; it needs task ctc"
        raise bad_input("model", why)
    if not (math.isfinite(timeout_s) and timeout_s >= 0):
        raise bad_input("queue_timeout_seconds", f"{timeout_s:g} is out of range; send 0 or more")
    if not 0 < len(request.frames) <= _MAX_SEQUENCES:
        why = f"{len(request.frames)} sequences of frames; send 1 to {_MAX_SEQUENCES}"
        raise bad_input("frames", why)
    call = CallShare() if len(request.frames) > 1 else None
    remaining_s, caller = context.time_remaining(), current.get().name
    for index, one in enumerate(request.frames):
        field = f"frames[{index}]"
        inputs = frames.one_row(spec, one, field)
        try:
            size = measure_request(spec, inputs)
        except ServingError as error:
            raise in_field(error, f"{field}.{error.field}") from None
        message = messages.Infer(
            key=0,
            model=spec.name,
            version=spec.version,
            inputs=inputs,
            size=size,
            outputs=(spec.manifest.roles.scores,),
            by_role=True,
            field=field,
            priority=request.priority,
            caller=caller,
        )
        yield InferenceRequest(
            served, "Transcribe", message, queue_timeout_s=timeout_s, remaining_s=remaining_s, call=call
        )


def transcript(spec: ModelSpec, event: messages.Event) -> pb.Transcript:
    assert event.outputs is not None
    best = event.outputs[spec.manifest.roles.scores].ravel()
    ids, starts, ends = collapse(best, spec.manifest.blank)
    return pb.Transcript(
        text=text_of(spec, ids).lstrip(),
        tokens=[
            pb.TranscriptToken(id=label, start=start, end=end)
            for label, start, end in zip(ids.tolist(), starts.tolist(), ends.tolist(), strict=True)
        ],
        length=event.length,
        timings=timings(event),
    )


def collapse(best: Array, blank: int | None, before: int = -1) -> tuple[Array, Array, Array]:
    """Remove repetitions, then blanks.

    Args:
        best: the best label of each frame.
        before: that of the frame before these; -1 is none.

    Returns:
        The labels that are left, the first frame of each, and the one after its last.
    """
    follows = np.concatenate([[before], best[:-1]]) if best.size else best
    changes = np.flatnonzero(best != follows)
    ends = np.append(changes[1:], best.size)
    kept = best[changes] != blank
    return best[changes][kept], changes[kept], ends[kept]


def text_of(spec: ModelSpec, ids: Array) -> str:
    return "".join(spec.manifest.labels[index] for index in ids.tolist())


class RunningText:
    """The text of a stream of frames, in what each element adds to it.

    Args:
        rereads: each element is read with all before it, and may change what was read before.
    """

    def __init__(self, spec: ModelSpec, *, rereads: bool) -> None:
        self._spec, self._rereads = spec, rereads
        self._before = -1  # the best label of the last frame
        self._characters = 0
        self._text = ""  # if it may change

    def add(self, best: Array) -> tuple[int, str]:
        """The number of characters of the text so far that stay, and the text that follows them.

        `best` has the best labels of the frames of an element, or of all frames.
        """
        best = best.ravel()
        before = -1 if self._rereads else self._before
        ids, _, _ = collapse(best, self._spec.manifest.blank, before)
        self._before = int(best[-1]) if best.size else self._before
        text = text_of(self._spec, ids)
        if self._rereads:
            text = text.lstrip()
            shorter = min(len(text), len(self._text))
            pairs = enumerate(zip(text, self._text, strict=False))
            kept = next((place for place, (new, old) in pairs if new != old), shorter)
            self._text = text
            return kept, text[kept:]
        kept = self._characters
        text = text if kept else text.lstrip()
        self._characters += len(text)
        return kept, text
