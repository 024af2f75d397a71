"""Follow: a prediction after each element as it arrives.

text, ids, flushes -> whole words -> ids -> one request for each element -> replies in order. On a
recurrent model an element is one step of a sequence; on any other the whole prefix is encoded again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import grpc
import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ServingError, bad_input
from ..frontend.requests import InferenceRequest
from ..model import datatypes
from . import tensors
from .inflight import linger
from .replies import labels, timings

if TYPE_CHECKING:
    from ..frontend.registry import ModelRegistry, ServedModel
    from ..frontend.requests import InFlightRequests
    from ..model.spec import ModelTensor
    from .instrumentation import Context

_STEPS_AHEAD, _PREFIXES_AHEAD = 16, 2
"""Elements of one stream in flight; past them its reader waits. They run one after another, and whole
prefixes would be queue to their own successors."""

_LONGEST_HELD = 65536
"""Characters without white space that are held."""

_SPACES = " \t\r\n"
_NEXT_TOKENS = 5
_numbers = itertools.count(1)


class _Step(NamedTuple):
    """An element on its way, and what its reply says of it."""

    position: int
    id: int
    element: str
    computed: int
    answer: asyncio.Task[messages.Event]


class Follow:
    """One stream. A task reads and starts steps, the handler writes their replies in order."""

    def __init__(self, registry: ModelRegistry, calls: InFlightRequests, context: Context) -> None:
        self._registry, self._calls, self._context = registry, calls, context
        self._steps: deque[_Step] = deque()
        self._updates, self._room = asyncio.Event(), asyncio.Event()
        self._ended = False
        self._held = ""
        self._prefix: list[int] = []
        self._names: dict[int, str] = {}
        self._sequence = ("follow", next(_numbers))
        self._served: ServedModel | None = None
        self._top_k = self._ahead = 0

    async def run(self) -> None:
        """
        Raises:
            ServingError: something in a message is wrong, or a step failed. What came before it has
                been answered.
        """
        reader = asyncio.create_task(self._read())
        try:
            await self._write()
            await reader
        except ServingError:
            if reader.done():
                await linger(self._context)
            raise
        finally:
            reader.cancel()
            for step in self._steps:
                step.answer.cancel()
            if self._served is not None and self._served.spec.steps:
                spec = self._served.spec
                self._calls.send(messages.EndSequence(spec.name, spec.version, self._sequence))

    # --- in -----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                await self._take(message)
            await self._take_text("", flush=True)
        except ServingError as error:
            if self._served is not None:  # else the directory has written it down
                self._served.refuse("Follow", error)
            raise
        finally:
            self._ended = True
            self._updates.set()

    async def _take(self, message: pb.FollowRequest) -> None:
        kind = message.WhichOneof("message")
        if (kind == "start") == (self._served is not None):
            error = bad_input("start", "send it once, in the first message")
            if self._served is None:
                self._registry.refuse("", "", "Follow", error)
            raise error
        if kind == "start":
            self._start(message.start)
        elif kind == "ids":
            await self._take_ids(tuple(message.ids.ids))
        else:
            await self._take_text(message.text, flush=message.flush)

    def _start(self, start: pb.FollowStart) -> None:
        served = self._registry.following(start.model, start.version, "Follow")
        self._served, spec = served, served.spec
        if not spec.manifest.roles.scores or not spec.text_input:
            raise bad_input("start.model", f"model {spec.model!r} predicts nothing after an element of text")
        if any(state.named and not state.spec.grows for state in spec.states):
            raise bad_input("start.model", f"model {spec.model!r} begins with a whole source; call Translate")
        generates = spec.manifest.task == "generate"
        self._ahead = _STEPS_AHEAD if spec.steps else _PREFIXES_AHEAD
        self._top_k = start.top_k or (_NEXT_TOKENS if generates else 0)

    async def _take_text(self, text: str, *, flush: bool) -> None:
        """Whole words at once: what comes after the last white space waits for more."""
        held = self._held + text
        end = len(held) if flush else max(held.rfind(space) for space in _SPACES) + 1
        words, self._held = held[:end], held[end:]
        if len(self._held) > _LONGEST_HELD:
            raise bad_input("text", f"more than {_LONGEST_HELD} characters without white space; send some")
        if words.strip() or (words and self._spaces_count()):
            assert self._served is not None
            if self._served.spec.manifest.text is None:
                raise bad_input("text", f"model {self._served.spec.model!r} has no tokenizer; send ids")
            event = await self._calls.read(self._served, words, (), "text")
            assert event.outputs is not None
            await self._begin_all(event.outputs["ids"].tolist(), event.tokens)

    def _spaces_count(self) -> bool:
        """White space is an element too where the model makes text."""
        return self._served is not None and self._served.spec.manifest.task == "generate"

    async def _take_ids(self, ids: tuple[int, ...]) -> None:
        served = self._served
        assert served is not None
        tensors.check_ids(_input(served), np.array(ids, np.int64), "ids")
        event = await self._calls.read(served, None, ids, "ids")
        await self._begin_all(ids, event.tokens)

    async def _begin_all(self, ids: tuple[int, ...] | list[int], names: tuple[str, ...]) -> None:
        for token, name in zip(ids, names, strict=True):
            while len(self._steps) >= self._ahead:
                self._room.clear()
                await self._room.wait()
            self._begin(token, name)
            if len(self._steps) == 1:
                await asyncio.sleep(0)  # its answer may be on its way before the next is begun

    def _begin(self, token: int, name: str) -> None:
        served = self._served
        assert served is not None
        self._check_length(served)
        self._prefix.append(token)
        tensor = _input(served)
        how = None
        given = self._prefix
        if served.spec.steps:
            how, given = messages.Feed(self._sequence, start=len(self._prefix) == 1), [token]
        shape = (1,) * (len(tensor.shape) - 1) + (len(given),) if len(tensor.shape) > 1 else (1,)
        ask = InferenceRequest(
            served,
            "Follow",
            {tensor.name: np.array(given, datatypes.NUMPY[tensor.datatype]).reshape(shape)},
            field="text",
            outputs=(served.spec.manifest.roles.scores,),
            remaining_s=self._context.time_remaining(),
            caller=self._context.peer(),
            how=how,
        )
        answer = asyncio.ensure_future(self._calls.answer(ask))
        self._steps.append(_Step(len(self._prefix), token, name, len(given), answer))
        self._updates.set()

    def _check_length(self, served: ServedModel) -> None:
        """A second face reads no more than the first."""
        manifest = served.spec.manifest
        names = {name for tensor in manifest.inputs.values() for name in tensor.lengths.values()}
        longest = min((manifest.lengths[name].max for name in names), default=None)
        if longest is not None and len(self._prefix) >= longest:
            why = f"the stream has {longest} elements, the model takes no more; start another"
            raise bad_input("text", why)

    # --- out ----------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while self._steps or not self._ended:
            while self._steps:
                step = self._steps[0]
                event = await step.answer
                await self._context.write(await self._reply(step, event))
                self._steps.popleft()
                self._room.set()
            self._updates.clear()
            if not self._ended:
                await self._updates.wait()

    async def _reply(self, step: _Step, event: messages.Event) -> pb.FollowReply:
        served = self._served
        assert served is not None
        assert event.outputs is not None
        manifest = served.spec.manifest
        ranked = labels(event.outputs[manifest.roles.scores], manifest, self._top_k)
        if manifest.task == "generate":
            await self._name(served, ranked)
        first = step.position == 1
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
        )

    async def _name(self, served: ServedModel, ranked: list[pb.Label]) -> None:
        """The labels of a language model are tokens."""
        unknown = tuple(label.index for label in ranked if label.index not in self._names)
        if unknown:
            event = await self._calls.read(served, None, unknown, "")
            self._names.update(zip(unknown, event.tokens, strict=True))
        for label in ranked:
            label.name = self._names[label.index]


def _input(served: ServedModel) -> ModelTensor:
    tensor = served.spec.input(served.spec.text_input)
    assert tensor is not None
    return tensor
