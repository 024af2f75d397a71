"""Follow: a prediction after each element, with step-wise and one-shot models."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import steps
from integration.harness import FRONT_ENDS, REPOSITORY, Served, refused, serve
from patience import PATIENCE_S, wait_until

from lockstep_client import AsyncClient
from lockstep_client.errors import ModelNotFound
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_proto.v1 import sequences_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEXT = "not a good film , but I was happy to see it"


@pytest.fixture(scope="module", params=["thread", "process", FRONT_ENDS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    steps.language(root)
    steps.with_time_axes(root)
    steps.translator(root)
    steps.adder(root)
    with serve(root, engine=request.param) as started:
        yield started


def start(model: str, **more: Any) -> pb.FollowRequest:
    return pb.FollowRequest(start=pb.FollowStart(model=model, **more))


def follow(server: Served, model: str, *parts: str | list[int] | bool, **more: Any) -> list[pb.FollowReply]:
    """Follows `parts`, each of which is text, ids, or True for a flush."""

    def requests() -> Iterator[pb.FollowRequest]:
        yield start(model, **more)
        for part in parts:
            if isinstance(part, bool):
                yield pb.FollowRequest(flush=part)
            elif isinstance(part, str):
                yield pb.FollowRequest(text=part)
            else:
                yield pb.FollowRequest(ids=pb.Ids(ids=part))

    return list(server.sequences.Follow(requests(), timeout=PATIENCE_S))


@pytest.mark.parametrize("model", ["sentiment-lstm", "sentiment-gru", "sentiment-rnn"])
def test_the_last_prediction_of_a_recurrent_model_is_the_one_shot_answer(shipped: Served, model: str) -> None:
    replies = follow(shipped, model, TEXT)
    (whole,) = shipped.sequences.Classify(
        pb.ClassifyRequest(model=model, texts=[TEXT]), timeout=PATIENCE_S
    ).results
    assert len(replies) == whole.length
    assert [reply.position for reply in replies] == list(range(1, whole.length + 1))
    assert all(reply.computed_elements == reply.timings.steps == 1 for reply in replies)
    for followed, label in zip(replies[-1].labels, whole.labels, strict=True):
        assert followed.name == label.name
        assert followed.probability == pytest.approx(label.probability, abs=1e-4)


def test_every_prediction_of_a_transformer_is_the_one_shot_answer_for_the_prefix(shipped: Served) -> None:
    replies = follow(shipped, "sentiment-transformer", TEXT)
    assert [reply.computed_elements for reply in replies] == list(range(1, len(replies) + 1))
    ids = [reply.id for reply in replies]
    request = pb.ClassifyRequest(
        model="sentiment-transformer", ids=[pb.Ids(ids=ids[:n]) for n in range(1, len(ids) + 1)]
    )
    answers = shipped.sequences.Classify(request, timeout=PATIENCE_S).results
    for reply, answer in zip(replies, answers, strict=True):
        assert reply.labels[0].name == answer.labels[0].name
        assert reply.labels[0].probability == pytest.approx(answer.labels[0].probability, abs=1e-3)


def test_split_text_gives_the_same_predictions_as_whole_text(shipped: Served) -> None:
    whole = follow(shipped, "sentiment-lstm", TEXT)
    pieces = follow(shipped, "sentiment-lstm", "no", "t a go", "od film ,", " but I was happy to s", "ee it")
    assert [(one.id, one.labels[0].score) for one in pieces] == [
        (one.id, one.labels[0].score) for one in whole
    ]


def test_ids_are_read_at_once_and_text_at_white_space_or_a_flush(server: Served) -> None:
    """The stream stays open, so replies do not depend on its end."""
    sent: list[pb.FollowRequest | None] = []

    def requests() -> Iterator[pb.FollowRequest]:
        yield start("lm")
        while True:
            wait_until(lambda: bool(sent), "something to send")
            message = sent.pop(0)
            if message is None:
                return
            yield message

    call = server.sequences.Follow(requests(), timeout=PATIENCE_S)
    sent.append(pb.FollowRequest(ids=pb.Ids(ids=[2, 3])))
    assert [next(call).element for _ in range(2)] == ["a", "b"]
    sent.append(pb.FollowRequest(text="cd"))  # buffered
    sent.append(pb.FollowRequest(text="e f"))
    assert "".join(next(call).element for _ in range(4)) == "cde "
    sent.append(pb.FollowRequest(flush=True))
    assert next(call).element == "f"
    sent.append(pb.FollowRequest(text="g"))
    sent.append(None)
    assert [reply.element for reply in call] == ["g"]


@pytest.mark.parametrize("model", ["lm", "timed"])
def test_a_language_model_predicts_tokens(server: Served, model: str) -> None:
    replies = follow(server, model, "abc", top_k=3)
    assert [reply.element for reply in replies] == ["a", "b", "c"]
    for reply in replies:
        assert len(reply.labels) == 3
        assert [label.name for label in reply.labels] == [steps.TOKENS[label.index] for label in reply.labels]
    request = pb.GenerateRequest(model=model, text="abc", temperature=0, max_tokens=1)
    (made,) = [
        token for one in server.sequences.Generate(request, timeout=PATIENCE_S) for token in one.tokens
    ]
    assert replies[-1].labels[0].index == made


def test_batched_streams_give_the_same_predictions_as_single_ones(server: Served) -> None:
    texts = ["abcdefghij"[n % 7 :] * 3 for n in range(24)]
    expected = [follow(server, "lm", text) for text in texts]
    with ThreadPoolExecutor(24) as pool:
        batched = list(pool.map(lambda text: follow(server, "lm", text), texts))
    for one, other in zip(expected, batched, strict=True):
        assert [reply.labels[0].score for reply in one] == [reply.labels[0].score for reply in other]


def test_the_first_reply_names_the_model_and_version(shipped: Served) -> None:
    first, *others = follow(shipped, "sentiment-gru", "it is fun")
    assert (first.model, first.version) == ("sentiment-gru", "1")
    assert not any(reply.model or reply.version for reply in others)


def test_an_empty_stream_ends_without_an_error(server: Served) -> None:
    assert follow(server, "lm") == []
    assert follow(server, "lm", "", True) == []


def ids(*sent: int) -> pb.FollowRequest:
    return pb.FollowRequest(ids=pb.Ids(ids=sent))


BAD: dict[str, tuple[list[pb.FollowRequest], str, str]] = {
    "no start": ([pb.FollowRequest(text="a")], "start", "first message"),
    "two starts": ([start("lm"), start("lm")], "start", "first message"),
    "an id outside": ([start("lm"), pb.FollowRequest(ids=pb.Ids(ids=[99]))], "ids", "99"),
    "a translator": ([start("translator")], "start.model", "Translate"),
    "a model of numbers": ([start("adder"), ids(1)], "start.model", "makes no predictions"),
}


async def test_a_client_that_is_still_writing_gets_the_error(server: Served) -> None:
    async with AsyncClient(server.address) as client:
        for _ in range(20):
            with pytest.raises(ModelNotFound):
                await client.follow("nobody", [f"word{n} " for n in range(50)]).result()


@pytest.mark.parametrize("case", BAD)
def test_invalid_messages_are_rejected(server: Served, case: str) -> None:
    messages, field, words = BAD[case]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, field, words):
        list(server.sequences.Follow(iter(messages), timeout=PATIENCE_S))


@pytest.mark.parametrize("model", ["sentiment-bow", "sentiment-rnn"])
def test_a_stream_beyond_the_longest_length_ends_with_an_error(
    tmp_path: Path, serving: Callable[..., Served], model: str
) -> None:
    shutil.copytree(REPOSITORY / model, tmp_path / model)
    manifest = tmp_path / model / "model.toml"
    manifest.write_text(re.sub("(?m)^max = .*$", "max = 8", manifest.read_text()))
    server = serving(tmp_path)
    replies = []
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "text"):
        for reply in server.sequences.Follow(iter([start(model), pb.FollowRequest(text="good " * 9)])):
            replies.append(reply)  # noqa: PERF402
    assert len(replies) == 8


def test_a_stream_is_not_refused_for_its_own_elements(tmp_path: Path, serving: Callable[..., Served]) -> None:
    """Each element of a Transformer encodes the whole prefix: they wait for one another, and nobody else."""
    shutil.copytree(REPOSITORY / "sentiment-transformer", tmp_path / "sentiment-transformer")
    manifest = tmp_path / "sentiment-transformer" / "model.toml"
    text = manifest.read_text()
    assert "[batching]" in text
    manifest.write_text(text.replace("[batching]", "[batching]\nmax_queue_ms = 0.001"))
    server = serving(tmp_path)
    requests = [start("sentiment-transformer"), pb.FollowRequest(text="good " * 100)]
    assert len(list(server.sequences.Follow(iter(requests), timeout=PATIENCE_S))) == 100


def test_a_stream_that_is_cancelled_or_not_read_frees_its_slot(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    folder = steps.language(tmp_path)
    manifest = folder.parent / "model.toml"
    manifest.write_text(manifest.read_text().replace("max_sequences = 64", "max_sequences = 1"))
    server = serving(tmp_path, max_stall_s=0.5)
    for _ in range(5):
        call = server.sequences.Follow(iter([start("lm"), pb.FollowRequest(text="a b ")]), timeout=PATIENCE_S)
        next(call)
        call.cancel()
        assert len(follow(server, "lm", "abc")) == 3
    unread = [start("lm", top_k=30), pb.FollowRequest(ids=pb.Ids(ids=[5] * 4000))]
    with grpc.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)]) as channel:
        call = sequences_pb2_grpc.SequencesStub(channel).Follow(iter(unread), timeout=PATIENCE_S)
        next(call)
        ended = "grpc_server_handled_total"
        failed = {"grpc_method": "Follow", "grpc_code": "FAILED_PRECONDITION"}
        wait_until(lambda: server.metric(ended, **failed) == 1, "the stream is ended")
        server.wait_idle()
        with refused(grpc.StatusCode.FAILED_PRECONDITION, words="max_stall_s"):
            list(call)
    for state in ("running", "waiting", "idle"):
        assert server.metric("lockstep_sequences", model="lm", state=state) == 0
