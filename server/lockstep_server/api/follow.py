"""Follow: a prediction after each element of a client's stream.

text, ids, frames, flushes -> whole words -> ids or frames -> one request per element -> replies in order. On
a step-wise model an element is one step of a client-driven sequence; on a one-shot model the whole prefix is
read again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ServingError, bad_input, in_field
from ..frontend.admission import CallShare
from ..frontend.callers import current
from ..frontend.inference_request import InferenceRequest
from ..frontend.loop_watch import off_loop
from ..model import datatypes
from ..model.prompts import takes_prompt
from ..model.spec import measure_request, row_of_ids
from . import sequence_ids, tensors
from .frames import Element, FrameBuffer, FramePrefix, prompt_of, prompt_reader, to_message
from .inflight import Reader, write_in_time
from .replies import labels, ranking_steps, timings
from .sequence_states import follow_stream_id
from .transcribe import RunningText

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..frontend.served_model import ServedModel
    from ..model.datatypes import Arrays
    from ..model.spec import ModelTensor, RequestSize
    from .status import Context

_STEPS_AHEAD, _PREFIXES_AHEAD = 16, 2
"""Elements of one stream in flight, after which its reader waits. They run one after another, so more
prefixes in flight would only wait for each other."""

_MAX_HELD_CHARACTERS = 65536
"""Characters held while no white space ends the word."""

_SPACES = " \t\r\n"
_NEXT_TOKENS = 5
_MAX_NEXT_TOKENS = 1000
_MAX_IDS = 16_384
"""Ids in one message. The next message is read when these have been started."""


class _Step(NamedTuple):
    """An element in flight, with what its reply needs."""

    position: int
    id: int
    element: str
    computed: int
    task: asyncio.Task[messages.Event]


class _Answer(NamedTuple):
    """What the replies of a stream hold."""

    labels: bool = False
    text: RunningText | None = None  # of a CTC model
    outputs: tuple[str, ...] = ()  # tensors
    top_k: int = 0


class Follow:
    """One stream. A task reads messages and starts steps; the handler writes the replies in order. A stream
    whose client takes nothing for `stall_s` is ended."""

    def __init__(
        self, registry: ModelRegistry, requests: InFlightRequests, context: Context, stall_s: float
    ) -> None:
        self._registry, self._requests, self._context = registry, requests, context
        self._stall_s = stall_s
        self._steps: deque[_Step] = deque()
        self._updates, self._room = asyncio.Event(), asyncio.Event()
        self._ended = self._dropped = False
        self._held = ""
        self._prefix: list[int] = []
        self._frames: FrameBuffer | FramePrefix | None = None
        self._prompt = False  # the next frames are a prompt
        self._position = 0
        self._answer = _Answer()
        self._reads_text = True
        self._replied = False
        self._names: dict[int, str] = {}
        self._sequence = requests.own_sequence()
        self._began = False  # the sequence has a step, or goes on with those of another
        self._served: ServedModel | None = None
        self._moved: ServingError | None = None  # the sequence is on another server
        self._ahead = 0
        # Elements wait for one another, and are not refused for it.
        self._call = CallShare(is_message=False)

    async def run(self) -> None:
        """
        Raises:
            ServingError: a message is invalid, or a step failed: earlier elements have been answered. Or the
                client takes nothing.
        """
        reader = Reader(self._context, self._take)
        reading = asyncio.create_task(self._read(reader))
        try:
            await self._write()
            await reading
        except ServingError:
            self._drop()
            await reader.drain(reading)
            raise
        finally:
            reading.cancel()
            self._drop()
            if self._requests.sequence_streams.get(self._sequence) == self._move:
                del self._requests.sequence_streams[self._sequence]
            if self._served is not None and self._served.spec.is_stepwise:
                spec = self._served.spec
                self._requests.send(messages.EndSequence(spec.name, spec.version, self._sequence))

    def _move(self, error: ServingError) -> None:
        """The sequence has moved. Elements that are in flight end with this error themselves."""
        self._moved = error
        self._updates.set()

    def _drop(self) -> None:
        """Cancel all steps, and start no more."""
        self._dropped = True
        for step in self._steps:
            step.task.cancel()
        self._steps.clear()
        self._room.set()

    # --- reading -------------------------------------------------------------------------------------

    async def _read(self, reader: Reader) -> None:
        try:
            await reader.run()
            await self._flush()
        except ServingError as error:
            if self._served is not None:  # otherwise the registry has recorded it
                self._served.record_refusal("Follow", error)
            raise
        finally:
            self._ended = True
            self._updates.set()

    async def _take(self, message: pb.FollowRequest) -> None:
        kind = message.WhichOneof("message")
        if (kind == "start") == (self._served is not None):
            error = bad_input("start", "send it exactly once, in the first message")
            if self._served is None:
                self._registry.record_refusal("", "", "Follow", error)
            raise error
        if kind == "start":
            self._start(message.start)
        elif kind == "ids":
            await self._take_ids(tuple(message.ids.ids))
        elif kind == "frames":
            await self._take_frames(message.frames)
        elif kind == "flush":
            await self._flush()
        else:
            await self._take_text(message.text, flush=False)

    def _start(self, start: pb.FollowStart) -> None:
        served = self._registry.stepwise_if_any(start.model, start.version, "Follow")
        self._served, spec = served, served.spec
        if start.prompt:
            prompt_reader(spec, "start.prompt")
            self._prompt = True
        elif any(state.dynamic_axis and not state.spec.grows for state in spec.states) and takes_prompt(spec):
            why = f"model {spec.model!r} needs a prompt of frames first; set prompt, and send it"
            raise bad_input("start.prompt", why)
        elif any(state.dynamic_axis and not state.spec.grows for state in spec.states):
            raise bad_input("start.model", f"model {spec.model!r} needs a whole source first; call Translate")
        tensor, generates = spec.text_tensor, spec.manifest.task == "generate"
        predicts = spec.classifies or (spec.is_stepwise and generates)
        self._reads_text = predicts and tensor is not None and tensor.datatype in datatypes.EXACT_INTEGERS
        if not self._reads_text and not spec.is_stepwise and not any(one.spec.lengths for one in spec.inputs):
            self._check_reads_text("start.model")
        self._ahead = _STEPS_AHEAD if spec.is_stepwise else _PREFIXES_AHEAD
        if generates and start.top_k > _MAX_NEXT_TOKENS:
            raise bad_input("start.top_k", f"{start.top_k} next tokens; ask for at most {_MAX_NEXT_TOKENS}")
        top_k = start.top_k or (_NEXT_TOKENS if generates else 0)
        names = tuple(one.name for one in spec.outputs)
        for index, name in enumerate(start.outputs):
            if name == spec.manifest.roles.scores and spec.transcribes:
                raise bad_input(f"start.outputs[{index}]", "the reply has the text of these scores; omit it")
            if name not in names:
                why = f"the model has no output {tensors.quoted(name)}; available: {', '.join(names)}"
                raise bad_input(f"start.outputs[{index}]", why)
        outputs = tuple(start.outputs) or (() if predicts or spec.transcribes else names)
        text = RunningText(spec, rereads=not spec.is_stepwise) if spec.transcribes else None
        if start.HasField("sequence"):
            self._go_on(start)
        self._requests.sequence_streams[self._sequence] = self._move
        self._answer = _Answer(predicts, text, outputs, top_k)
        self._frames = FrameBuffer(spec) if spec.is_stepwise else FramePrefix(spec)

    def _go_on(self, start: pb.FollowStart) -> None:
        """Go on with a sequence that was put here."""
        assert self._served is not None
        spec, field = self._served.spec, "start.sequence"
        if not spec.is_stepwise:
            raise bad_input(field, f"model {spec.model!r} has no step-wise form; leave it out")
        if start.prompt:
            raise bad_input("start.prompt", "a prompt begins a sequence; leave sequence out")
        if spec.transcribes:
            why = "no state has the text so far of a CTC model; send the frames from the first on"
            raise bad_input(field, why)
        self._sequence = sequence_ids.owned(sequence_ids.value(start.sequence, field))
        self._served = self._registry.resolve_step(spec.name, start.version, self._sequence, start=False)
        self._began = True

    def _check_reads_text(self, field: str) -> None:
        """
        Raises:
            ServingError: BAD_INPUT, the model makes no predictions on text.
        """
        served = self._served
        assert served is not None
        if not self._reads_text:
            raise bad_input(
                field,
                f"model {served.spec.model!r} makes no predictions on text: its manifest needs labels for the"
                " roles.scores of a text, or task generate, and an input of text; send frames, or call"
                " ModelInfer",
            )

    async def _flush(self) -> None:
        """Start steps for the text or frames that are buffered."""
        if self._frames is not None:
            await self._start_elements(self._frames.flush())
        if self._held:
            await self._take_text("", flush=True)

    async def _take_frames(self, frames: pb.Frames) -> None:
        assert self._frames is not None
        if self._prefix:
            raise bad_input("frames", "the stream has text or ids; send frames in a stream of their own")
        if self._prompt:
            assert self._served is not None
            prompt = prompt_of(self._served.spec, frames, "frames")
            await self._start_elements([prompt], prompt=True)
            self._prompt = False
            return
        await self._start_elements(self._frames.take(frames, "frames"))

    async def _take_text(self, text: str, *, flush: bool) -> None:
        """Start steps for whole words; text after the last white space is held until more arrives."""
        self._check_reads_text("start.model")
        if len(text) > _MAX_HELD_CHARACTERS:
            raise bad_input("text", f"{len(text)} characters at once; send at most {_MAX_HELD_CHARACTERS}")
        held = self._held + text
        end = len(held) if flush else max(held.rfind(space) for space in _SPACES) + 1
        words, self._held = held[:end], held[end:]
        if len(self._held) > _MAX_HELD_CHARACTERS:
            raise bad_input(
                "text",
                f"more than {_MAX_HELD_CHARACTERS} characters without white space; send some, or flush",
            )
        if words.strip() or (words and self._spaces_count()):
            assert self._served is not None
            if not self._served.spec.reads_text:
                raise bad_input("text", f"model {self._served.spec.model!r} has no tokenizer; send ids")
            encoded = await self._requests.tokenize(self._served, words, "text")
            await self._start_steps(encoded.ids, encoded.tokens)

    def _spaces_count(self) -> bool:
        """Whether white space alone is an element: on models that generate text."""
        return self._served is not None and self._served.spec.manifest.task == "generate"

    async def _take_ids(self, ids: tuple[int, ...]) -> None:
        served = self._served
        assert served is not None
        self._check_reads_text("start.model")
        if len(ids) > _MAX_IDS:
            raise bad_input("ids", f"{len(ids)} ids at once; send at most {_MAX_IDS}")
        tensors.check_ids(_input(served), np.array(ids, np.int64), "ids")
        await self._start_steps(ids, await self._requests.token_names(served, ids))

    async def _start_steps(self, ids: Sequence[int], names: Sequence[str]) -> None:
        if self._prompt or self._position > len(self._prefix):
            raise bad_input("ids", "the stream has frames; send text or ids in a stream of their own")
        for token, name in zip(ids, names, strict=True):
            if not await self._has_room():
                return
            self._start_token(token, name)
            await self._sent()

    async def _start_elements(self, elements: Iterable[Element], *, prompt: bool = False) -> None:
        for element in elements:
            if not await self._has_room():
                return
            self._start_step(element, "frames", prompt=prompt)
            await self._sent()

    async def _has_room(self) -> bool:
        """Wait until another step may be in flight. False if the stream has ended."""
        while len(self._steps) >= self._ahead:
            self._room.clear()
            await self._room.wait()
        return not self._dropped

    async def _sent(self) -> None:
        if len(self._steps) == 1:
            await asyncio.sleep(0)  # let the first step be sent before the next one starts

    def _start_token(self, token: int, name: str) -> None:
        served = self._served
        assert served is not None
        self._check_length(served)
        self._prefix.append(token)
        tensor = _input(served)
        ids = [token] if served.spec.is_stepwise else self._prefix
        if served.spec.is_stepwise:
            array = np.array(ids, datatypes.NUMPY[tensor.datatype]).reshape((1,) * max(len(tensor.shape), 1))
        else:
            array = row_of_ids(tensor, ids)
        self._start_step(Element({tensor.name: array}, 1, len(ids)), "text", token, name)

    def _start_step(
        self, element: Element, field: str, token: int = 0, name: str = "", *, prompt: bool = False
    ) -> None:
        served = self._served
        assert served is not None
        message = self._message(served, element.inputs, field, prompt=prompt)
        inference = InferenceRequest(
            served, "Follow", message, remaining_s=self._context.time_remaining(), call=self._call
        )
        task = asyncio.ensure_future(self._requests.infer(inference))
        self._position += element.size
        self._steps.append(_Step(self._position, token, name, element.computed or element.size, task))
        self._updates.set()

    def _message(
        self, served: ServedModel, inputs: Arrays, field: str, *, prompt: bool
    ) -> messages.Infer | messages.Step:
        reads_scores = self._answer.labels or self._answer.text is not None
        scores = (served.spec.manifest.roles.scores,) if reads_scores else ()
        size = (
            self._size(served, inputs) if served.spec.chunk_lengths or not served.spec.is_stepwise else None
        )
        common: dict[str, Any] = {
            "key": 0,
            "model": served.spec.name,
            "version": served.spec.version,
            "inputs": inputs,
            "outputs": tuple(dict.fromkeys((*scores, *self._answer.outputs))),
            "by_role": reads_scores,
            "field": field,
            "caller": current.get().name,
        }
        if served.spec.is_stepwise:
            start, most = not self._began, current.get().slots or 0
            self._began = True
            return messages.Step(
                **common, sequence=self._sequence, start=start, prompt=prompt, max_slots=most
            )
        assert size is not None
        return messages.Infer(**common, size=size)

    def _size(self, served: ServedModel, inputs: Arrays) -> RequestSize:
        try:
            return measure_request(served.spec, inputs)
        except ServingError as error:
            raise in_field(error, "text" if self._prefix else f"frames.{error.field}") from None

    def _check_length(self, served: ServedModel) -> None:
        """The step-wise form is limited to the one-shot form's maximum length."""
        manifest = served.spec.manifest
        names = {name for tensor in manifest.inputs.values() for name in tensor.lengths.values()}
        longest = min((manifest.lengths[name].max for name in names), default=None)
        if longest is not None and len(self._prefix) >= longest:
            why = f"the stream has reached the model's limit of {longest} elements; start a new stream"
            raise bad_input("text", why)

    # --- writing -------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while self._steps or not self._ended:
            while self._steps:
                step = self._steps[0]
                event = await step.task
                await write_in_time(self._context, await self._reply(step, event), self._stall_s)
                self._steps.popleft()
                self._room.set()
            self._updates.clear()
            if self._moved is not None:
                raise self._moved
            if not self._ended:
                await self._updates.wait()

    async def _reply(self, step: _Step, event: messages.Event) -> pb.FollowReply:
        served = self._served
        assert served is not None
        assert event.outputs is not None
        manifest, ranked = served.spec.manifest, list[pb.Label]()
        if self._answer.labels:
            scores, top_k = event.outputs[manifest.roles.scores], self._answer.top_k
            ranked = await off_loop(ranking_steps(scores, 1, top_k), labels, scores, manifest, top_k)
        if manifest.task == "generate":
            await self._name(served, ranked)
        kept, text = 0, ""
        if self._answer.text is not None:
            kept, text = self._answer.text.add(event.outputs[manifest.roles.scores])
        first, self._replied = not self._replied, True
        return pb.FollowReply(
            model=served.spec.model if first else "",
            version=str(served.spec.version) if first else "",
            position=step.position,
            id=step.id,
            element=step.element,
            labels=ranked,
            computed_elements=step.computed,
            timings=timings(event),
            notice=served.spec.notice,
            stream_id=follow_stream_id(self._sequence) if first and self._is_own() else "",
            text=text,
            kept_characters=kept,
            outputs=[
                to_message(tensor, event.outputs[tensor.name])
                for tensor in served.spec.outputs
                if tensor.name in self._answer.outputs
            ],
        )

    def _is_own(self) -> bool:
        """Whether the sequence has no id of its caller's."""
        is_step_wise = self._served is not None and self._served.spec.is_stepwise
        return is_step_wise and isinstance(self._sequence, tuple) and not self._sequence[0]

    async def _name(self, served: ServedModel, ranked: list[pb.Label]) -> None:
        """Name the labels by their tokens: a language model predicts tokens."""
        unknown = tuple(label.index for label in ranked if label.index not in self._names)
        if unknown:
            names = await self._requests.token_names(served, unknown)
            self._names.update(zip(unknown, names, strict=True))
        for label in ranked:
            label.name = self._names[label.index]


def _input(served: ServedModel) -> ModelTensor:
    tensor = served.spec.text_tensor
    assert tensor is not None
    return tensor
