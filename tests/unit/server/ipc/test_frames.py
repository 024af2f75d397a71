"""Frames decode however the bytes are split, and large arrays are encoded without a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.ipc import frames
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.spec import RequestSize

if TYPE_CHECKING:
    from collections.abc import Iterable


def bytes_of(*batches: list[Any]) -> bytes:
    return b"".join(bytes(part) for batch in batches for part in frames.Encoder().encode(batch))


def decoded(chunks: Iterable[bytes]) -> list[list[Any]]:
    decoder = frames.Decoder()
    return [batch for chunk in chunks for batch in decoder.feed(chunk)]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, msgspec.Struct):
        return type(one) is type(other) and equal(msgspec.structs.asdict(one), msgspec.structs.asdict(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, ServingError):
        return type(other) is ServingError and vars(one) == vars(other)
    return bool(one == other)


arrays = hnp.arrays(
    st.sampled_from([np.float32, np.int64, np.bool_, np.uint8]), hnp.array_shapes(min_side=0, max_side=40)
)
large = st.integers(0, 3).map(lambda n: np.arange(10_000 + n, dtype=np.float64)[::1])
values = st.one_of(
    st.builds(messages.Cancel, st.integers(0, 2**63 - 1)),
    st.builds(messages.Load, st.text(max_size=20)),
    st.dictionaries(st.text(max_size=5), st.one_of(arrays, large), max_size=3).map(
        lambda inputs: sample_models.infer(inputs=inputs)
    ),
    st.builds(
        messages.ModelUpdate,
        model=st.just("m"),
        version=st.just(1),
        state=st.just("LOADING"),
        tokenizer=st.binary(max_size=200),
    ),
)
message_batches = st.lists(st.lists(values, max_size=4), min_size=1, max_size=4)


@given(message_batches, st.data())
def test_messages_decode_however_the_bytes_are_split(batches: list[list[Any]], data: Any) -> None:
    stream = bytes_of(*batches)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert equal(decoded(chunk for chunk in chunks if chunk), batches)


def test_large_frames_decode_in_their_place_however_the_bytes_are_split() -> None:
    batches = [
        [sample_models.infer(inputs={"x": np.arange(200_000 + i, dtype=np.float64)}), messages.Cancel(i)]
        for i in range(3)
    ]
    data = bytes_of(*batches)
    sizes = (100_000, 1 << 20, 1_600_000, 1_600_200, 3_000_000, len(data))
    for size in sizes:
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        assert equal(decoded(chunks), batches)


def test_messages_decode_byte_by_byte() -> None:
    batches: list[list[messages.Message]] = [
        [messages.Cancel(1), infer_of(np.arange(5000.0))],
        [],
        [messages.Load("m")],
    ]
    stream = bytes_of(*batches)
    assert equal(decoded(stream[i : i + 1] for i in range(len(stream))), batches)


def test_a_frame_is_decoded_as_soon_as_it_is_complete() -> None:
    stream = bytes_of([messages.Cancel(1)])
    decoder = frames.Decoder()
    assert list(decoder.feed(stream[:-1])) == []
    assert list(decoder.feed(stream[-1:] + stream[:3])) == [[messages.Cancel(1)]]
    assert list(decoder.feed(stream[3:])) == [[messages.Cancel(1)]]


def test_a_message_keeps_its_content_when_the_next_frame_is_received() -> None:
    """Frames are received into one buffer."""
    decoder = frames.Decoder()
    ((first,),) = decoder.feed(bytes_of([infer_of(np.arange(4))]))
    ((second,),) = decoder.feed(bytes_of([infer_of(np.arange(4, 8))]))
    assert [first.inputs["0"].tolist(), second.inputs["0"].tolist()] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def infer_of(*given: Any) -> messages.Infer:
    return sample_models.infer(inputs={str(index): array for index, array in enumerate(given)})


def round_trip(*given: Any) -> list[Any]:
    (((back, after),),) = [decoded([bytes_of([infer_of(*given), messages.Cancel(9)])])]
    assert after == messages.Cancel(9)
    return list(back.inputs.values())


def test_a_large_array_is_sent_after_the_body_without_a_copy_and_a_small_one_inside() -> None:
    array, small = np.arange(100_000.0), np.arange(10.0)
    parts = frames.Encoder().encode([infer_of(array, small)])
    assert [len(part) for part in parts[1:]] == [array.nbytes]
    assert np.shares_memory(np.frombuffer(parts[1], np.float64), array)
    assert len(parts[0]) < 1000


def test_decoded_arrays_are_writable() -> None:
    """The engine may update states in place."""
    array, small = round_trip(np.zeros(100_000), np.zeros(3))
    array += 1
    small += 1
    assert (array.sum(), small.sum()) == (100_000, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(100_000.0).reshape(100, 1000).T,
        np.arange(100_000.0)[::2],
        np.array([b"a", "été".encode(), b"\xff"], object),
        np.array([["a", "日本"]], object),
        np.arange(40_000).astype(ml_dtypes.bfloat16),
        np.arange(40_000, dtype=np.float16),
        np.zeros((0, 5), np.float32),
        np.array(3.5),
        np.zeros((64, 1024), np.bool_),
    ],
    ids=[
        "transposed",
        "strided",
        "bytes",
        "strings",
        "bfloat16",
        "float16",
        "empty",
        "scalar",
        "bools",
    ],
)
def test_arrays_of_every_kind_survive_a_round_trip(array: Any) -> None:
    (back,) = round_trip(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


def test_a_frame_of_another_version_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = bytes_of([messages.Cancel(1)])
    monkeypatch.setattr(messages, "VERSION", messages.VERSION + 1)
    with pytest.raises(ValueError, match="frame version"):
        decoded([stream])


# --- messages ---------------------------------------------------------------------------------------

ERROR = ServingError(ErrorCode.OVERLOADED, "later", field="text", resource="m", retry_after_s=1.5)
TIMINGS = messages.RequestTimings(0.1, 0.2, 3, 1.5, 0.05, 0.3)
MESSAGES: tuple[Any, ...] = (
    sample_models.infer(
        1,
        RequestSize(2, (3,), 3),
        inputs={"x": np.ones((2, 3), np.float32)},
        outputs=("y",),
        deadline=3.0,
        caller="peer",
    ),
    messages.Generate(
        key=2,
        model="m",
        version=1,
        prompt=(3, 4),
        field="text",
        max_tokens=9,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        seed=2**64 - 1,
        stop=("a", "été"),
        log_probabilities=True,
        attention=True,
    ),
    messages.Step(
        key=3,
        model="m",
        version=1,
        sequence=("follow", 3),
        inputs={"x": np.zeros(9_000)},
        start=True,
        end=True,
    ),
    messages.Step(key=4, model="m", version=1, sequence=2**64 - 1, inputs={}),
    messages.Cancel(5),
    messages.Credit(6, 8),
    messages.EndSequence("m", 1, "sequence"),
    messages.SetFlushInterval(0.01),
    messages.Load("m"),
    messages.Unload("m"),
    messages.Events(
        model="m",
        version=1,
        events=[
            messages.Event(key=1, outputs={"y": np.ones(20_000)}, timings=TIMINGS, length=5),
            messages.Event(key=2, error=ERROR),
        ],
        runs=[messages.Run.of_step(2, 4, 0.2, 0.4)],
        chunks=[
            messages.Chunk(
                key=7,
                ids=[1, 2],
                text="ab",
                log_probabilities=[-0.5, -1.0],
                attention=[np.ones(3, np.float32)],
                token_texts=["a", "b"],
            )
        ],
        sequences=messages.SequenceCounts(1, 2, 3),
        sent=12.5,
    ),
    messages.Costs("m", 1, CostModel().to_dict()),
    messages.ModelUpdate(
        model="m", version=1, state="READY", spec=sample_models.ragged(), costs=CostModel().to_dict()
    ),
    messages.LoadDone("m", "load", "why not"),
    messages.LoadStep("m", 1, "self-test"),
    messages.EngineConfig(models="models", selected=("a", "b")),
    messages.StopEngine(1.5),
    messages.EngineStarted(messages.EngineInfo("cpu", "1.31.1", 1)),
    messages.EngineFailed("no such folder"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_every_message_survives_a_round_trip(message: Any) -> None:
    (((back,),),) = [decoded([bytes_of([message])])]
    assert type(back) is type(message)
    assert equal(back, message)
