"""Each accepted request ends exactly once, independent of the other requests in its batch."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import pytest
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, ServingError, unavailable
from lockstep_server.frontend.admission import AdmissionController
from lockstep_server.frontend.inference_request import InferenceRequest
from lockstep_server.frontend.requests import InFlightRequests
from lockstep_server.frontend.served_model import ServedModel
from lockstep_server.frontend.tokenization import Tokenizers
from lockstep_server.metrics.families import Metrics, ModelMeters
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.spec import RequestSize
from lockstep_server.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path


class _EmptyRegistry:
    """A registry without models."""

    tokenizers = None

    def get(self, model: str, version: int) -> None:
        return None


def _infer(**more: Any) -> messages.Infer:
    return sample_models.infer(0, RequestSize(1, (), 3), inputs={"x": np.zeros((1, 3), np.float32)}, **more)


def _served() -> ServedModel:
    spec = sample_models.plain()
    return ServedModel(
        spec, AdmissionController(spec, CostModel().to_dict()), ModelMeters(Metrics(), "m", 1, "cpu")
    )


async def test_an_error_in_one_callback_does_not_affect_other_requests() -> None:
    served = _served()
    requests = InFlightRequests(lambda message, when=None: None, _EmptyRegistry())  # type: ignore[arg-type]
    received: list[messages.Event] = []

    def broken(event: messages.Event) -> None:
        raise ValueError("broken callback")

    def start(on_event: Any) -> int:
        return requests.start(InferenceRequest(served, "ModelInfer", _infer()), on_event)

    keys = [start(broken), start(received.append)]
    requests.deliver(
        messages.Events(model="m", version=1, events=[messages.Event(key=key, outputs={}) for key in keys])
    )
    assert [event.key for event in received] == keys[1:]
    assert len(requests) == 0
    await asyncio.sleep(0)  # requests that have ended are counted in the next turn
    assert served.admission.requests == 0


@pytest.mark.parametrize(("priorities", "sent"), [(True, 7), (False, 0)])
async def test_priorities_are_heeded_or_not(priorities: bool, sent: int) -> None:
    messages_sent: list[Any] = []
    requests = InFlightRequests(
        lambda message, when=None: messages_sent.append(message),
        _EmptyRegistry(),  # type: ignore[arg-type]
        priorities=priorities,
    )
    requests.start(InferenceRequest(_served(), "ModelInfer", _infer(priority=7)), lambda event: None)
    assert [message.priority for message in messages_sent] == [sent]


async def test_fail_all_ends_every_request_in_flight() -> None:
    served = _served()
    requests = InFlightRequests(lambda message, when=None: None, _EmptyRegistry())  # type: ignore[arg-type]
    ended: list[messages.Event] = []
    requests.start(InferenceRequest(served, "ModelInfer", _infer()), ended.append)
    requests.fail_all(unavailable("the engine process ended"))
    assert [event.error.code.value for event in ended if event.error] == ["unavailable"]
    assert len(requests) == 0


async def test_a_failed_request_leaves_nothing_behind() -> None:
    """What raises an error refers to the event that has it. The garbage collector must see that."""
    requests = InFlightRequests(lambda message, when=None: None, _EmptyRegistry())  # type: ignore[arg-type]
    waiting = asyncio.create_task(requests.infer(InferenceRequest(_served(), "ModelInfer", _infer())))
    await asyncio.sleep(0)
    requests.fail_all(unavailable("the engine process ended"))
    with pytest.raises(ServingError) as caught:
        await waiting
    error = weakref.ref(caught.value)
    del caught, waiting
    await asyncio.sleep(0)
    gc.collect()
    assert error() is None


# --- texts ------------------------------------------------------------------------------------------


class _Reader:
    """A front end for one model with a tokenizer, and what was sent to its engine."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokenizers = Tokenizers(1)
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.ended: asyncio.Queue[messages.Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Vocabulary] = loop.create_future()
        opened.set_result(vocabulary)
        spec = sample_models.words()
        self.served = ServedModel(
            spec,
            AdmissionController(spec, CostModel().to_dict()),
            ModelMeters(Metrics(), "m", 1, "cpu"),
            vocabulary=opened,
        )
        self.requests = InFlightRequests(
            lambda message, when=None: self.sent.put_nowait(message),
            self,  # type: ignore[arg-type]
        )

    def get(self, model: str, version: int) -> ServedModel:
        return self.served

    def start(self, text: str) -> int:
        request = InferenceRequest(self.served, "Classify", _infer(field="texts[0]"), text)
        return self.requests.start(request, self.ended.put_nowait)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    fakes.write_tokenizer(tmp_path / "tokenizer.json")
    return Vocabulary((tmp_path / "tokenizer.json").read_bytes())


async def test_a_short_text_is_sent_at_once_with_its_ids_and_its_size(vocabulary: Vocabulary) -> None:
    reader = _Reader(vocabulary)
    key = reader.start("very good film")
    infer = reader.sent.get_nowait()
    assert (infer.key, infer.inputs["x"].tolist(), infer.size) == (key, [[5, 2, 4]], RequestSize(1, (3,), 3))
    assert infer.inputs["x"].dtype == np.int32


async def test_a_long_text_is_tokenized_elsewhere_and_counts_as_in_flight(vocabulary: Vocabulary) -> None:
    reader = _Reader(vocabulary)
    reader.start("good " * 200)
    assert (reader.sent.qsize(), len(reader.requests)) == (0, 1)
    assert (await reader.sent.get()).size == RequestSize(1, (200,), 200)


async def test_a_long_text_that_is_refused_ends_with_its_error_and_is_not_sent(
    vocabulary: Vocabulary,
) -> None:
    reader = _Reader(vocabulary)
    reader.start("good " * 2000)  # the model takes 1,000
    event = await reader.ended.get()
    assert event.error is not None
    assert (event.error.code, event.error.field) == (ErrorCode.BAD_INPUT, "texts[0]")
    assert (reader.sent.qsize(), len(reader.requests)) == (0, 0)


async def test_a_long_text_is_refused_without_its_ids_if_the_queue_is_full(vocabulary: Vocabulary) -> None:
    reader = _Reader(vocabulary)
    reader.served.admission.enter(60.0, 0.0, None)
    with pytest.raises(ServingError, match="exceeds the limit"):
        reader.start("good " * 200)
    assert len(reader.requests) == 0


async def test_a_text_whose_caller_left_is_not_sent(vocabulary: Vocabulary) -> None:
    reader = _Reader(vocabulary)
    cancelled = reader.start("good " * 200)
    reader.requests.cancel(cancelled)
    assert len(reader.requests) == 0
    key = reader.start("bad " * 200)
    assert (await reader.sent.get()).key == key
    assert reader.sent.empty()


async def test_a_text_without_tokens_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ServingError, match="has no tokens"):
        _Reader(vocabulary).start("   ")


# --- coalescing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "when_idle", "when_busy"),
    [
        (_infer(), messages.SendPolicy.NOW, messages.SendPolicy.COALESCE),
        (
            messages.Generate(key=0, model="m", version=1, prompt=(1,)),
            messages.SendPolicy.NOW,
            messages.SendPolicy.NOW,
        ),
        (
            messages.Step(key=0, model="m", version=1, sequence="s", inputs={}),
            messages.SendPolicy.NOW,
            messages.SendPolicy.COALESCE,
        ),
    ],
)
async def test_requests_that_can_share_a_run_are_coalesced_for_a_busy_model(
    message: Any, when_idle: messages.SendPolicy, when_busy: messages.SendPolicy
) -> None:
    """Only requests for the same model count: those for another model delay nothing."""
    served, another = _served(), _served()
    sent: list[tuple[Any, messages.SendPolicy]] = []

    def send(message: Any, when: messages.SendPolicy = messages.SendPolicy.TURN) -> None:
        sent.append((message, when))

    requests = InFlightRequests(send, _EmptyRegistry())  # type: ignore[arg-type]

    def start(model: ServedModel = served) -> int:
        return requests.start(InferenceRequest(model, "ModelInfer", message), lambda event: None)

    first, second = start(), start()
    start(another)
    requests.cancel(first)
    requests.cancel(second)
    start()
    assert [when for message, when in sent if not isinstance(message, messages.Cancel)] == [
        when_idle,
        when_busy,
        when_idle,
        when_idle,
    ]
    assert {when for message, when in sent if isinstance(message, messages.Cancel)} == {
        messages.SendPolicy.TURN
    }
