"""Generate and Translate through a real server, with sequences that are batched step by step."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import onnx
import pytest
import steps
from integration.harness import FRONT_ENDS, Served, refused, serve
from onnx import numpy_helper
from patience import PATIENCE_S, wait_until

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_proto.v1 import sequences_pb2_grpc
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


PLACES = {
    "threads": {"engine": "thread"},
    "a process": {"engine": "process"},
    FRONT_ENDS: {"engine": FRONT_ENDS},
    "states on the device": {"engine": "thread", "state_values": "device"},
}
"""Where the engine runs, and keeps the states of sequences."""

TRANSLATORS = dict.fromkeys(PLACES, ("translator",)) | {"threads": ("translator", "blurred")}
"""The models whose translations are compared in each place."""


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def server(place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    steps.language(root)
    steps.language(root, "forced", prefill=False)
    steps.with_time_axes(root)
    steps.with_time_axes(root, "timed-free", sequence="sequence")
    steps.cache(root)
    steps.translator(root)
    steps.write(
        root, "blurred", steps.TRANSLATE,
        {"prefill.onnx": steps.blurred_prefill(), "step.onnx": steps.translator_step()}, steps.characters(),
    )  # fmt: skip
    steps.unmasked(root)
    steps.adder(root)
    with serve(root, **PLACES[place]) as started:
        yield started


def generate(server: Served, model: str = "lm", text: str = "abc", **more: Any) -> list[pb.GenerateReply]:
    request = pb.GenerateRequest(model=model, text=text, **{"seed": 1, "max_tokens": 20, **more})
    return list(server.sequences.Generate(request, timeout=PATIENCE_S))


def text_of(replies: list[Any]) -> str:
    return "".join(reply.text for reply in replies)


def tokens_of(replies: list[Any]) -> list[int]:
    return [token for reply in replies for token in reply.tokens]


def translate(server: Served, text: str, model: str = "translator", **more: Any) -> list[pb.TranslateReply]:
    request = pb.TranslateRequest(model=model, text=text, **more)
    return list(server.sequences.Translate(request, timeout=PATIENCE_S))


# --- output of a stream ---------------------------------------------------------------------------


def test_the_last_message_has_the_reason_the_seed_and_the_timings(server: Served) -> None:
    *before, last = generate(server, max_tokens=12, seed=7)
    assert all(reply.reason == pb.STOP_REASON_UNSPECIFIED for reply in before)
    assert (last.reason, last.seed) == (pb.STOP_REASON_LENGTH, 7)
    assert (last.model, last.version) == ("lm", "1")
    assert not any(reply.model or reply.version for reply in before)
    timings = last.timings
    assert timings.steps == 11  # the prefill run gives the first token
    assert timings.prefill_seconds > 0
    assert timings.batch_rows == 1
    assert 0 < timings.prefill_seconds <= timings.compute_seconds
    assert timings.first_token_seconds >= timings.queue_seconds


def test_texts_of_all_messages_join_to_the_text_of_the_tokens(server: Served) -> None:
    replies = generate(server, max_tokens=40)
    assert len(tokens_of(replies)) == 40
    assert text_of(replies) == "".join(steps.TOKENS[token] for token in tokens_of(replies))


def test_prefill_and_forced_steps_give_the_same_text(server: Served) -> None:
    for seed in range(5):
        for prompt in ("a", "abcdefgh", "a" * 40):
            assert text_of(generate(server, "lm", prompt, seed=seed)) == text_of(
                generate(server, "forced", prompt, seed=seed)
            )


@pytest.mark.parametrize("model", ["timed", "timed-free"])
def test_ids_and_scores_may_have_a_time_axis(server: Served, model: str) -> None:
    """The last position of the scores counts, in prompts of different lengths that share a run too."""
    prompts = ["a", "abcdefgh", "j" * 40, "c" * 11, "hj", "b" * 64, "ghi", "a" * 23]
    expected = [tokens_of(generate(server, "lm", prompt)) for prompt in prompts]
    assert [tokens_of(generate(server, model, prompt)) for prompt in prompts] == expected
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: tokens_of(generate(server, model, prompt)), prompts))
    assert together == expected


def test_greedy_output_does_not_depend_on_the_seed(server: Served) -> None:
    assert text_of(generate(server, temperature=0, seed=1)) == text_of(
        generate(server, temperature=0, seed=2)
    )


def test_without_a_seed_a_random_one_is_returned(server: Served) -> None:
    request = pb.GenerateRequest(model="lm", text="abc", max_tokens=30)
    drawn = list(server.sequences.Generate(request, timeout=PATIENCE_S))
    again = generate(server, max_tokens=30, seed=drawn[-1].seed)
    assert text_of(again) == text_of(drawn)


def test_a_prompt_can_be_ids(server: Served) -> None:
    ids = pb.Ids(ids=[steps.TOKENS.index(letter) for letter in "abc"])
    request = pb.GenerateRequest(model="lm", ids=ids, max_tokens=20, seed=1)
    assert text_of(list(server.sequences.Generate(request, timeout=PATIENCE_S))) == text_of(generate(server))


def test_an_empty_prompt_begins_with_the_begin_id(server: Served) -> None:
    assert text_of(generate(server, text="")) == text_of(generate(server, text="\n"))


def test_unknown_characters_are_read_as_the_unknown_token(server: Served) -> None:
    assert text_of(generate(server, text="aZb")) == text_of(generate(server, text="a?b"))


def test_max_tokens_zero_generates_nothing(server: Served) -> None:
    (only,) = generate(server, max_tokens=0)
    assert (list(only.tokens), only.text, only.reason) == ([], "", pb.STOP_REASON_LENGTH)


def test_max_tokens_one_generates_one_token(server: Served) -> None:
    replies = generate(server, max_tokens=1)
    assert len(tokens_of(replies)) == 1


def test_without_max_tokens_the_limit_of_the_model_applies(server: Served) -> None:
    request = pb.GenerateRequest(model="lm", text="abc", seed=1)
    assert len(tokens_of(list(server.sequences.Generate(request, timeout=PATIENCE_S)))) == 40


def test_generation_ends_before_a_stop_string(server: Served) -> None:
    whole = text_of(generate(server, max_tokens=40))
    stop = whole[15:18]
    replies = generate(server, max_tokens=40, stop=["never so", stop])
    assert text_of(replies) == whole[: whole.index(stop)]
    assert replies[-1].reason == pb.STOP_REASON_STOP


@pytest.mark.parametrize("model", ["lm", "forced"])
def test_samples_are_the_texts_of_their_seeds(server: Served, model: str) -> None:
    """Each as a request of its own would get it. Their prompt is prefilled once."""
    replies = generate(server, model, samples=4, seed=9, temperature=1)
    found = [[reply for reply in replies if reply.sample == sample] for sample in range(4)]
    expected = [generate(server, model, seed=seed, temperature=1) for seed in range(9, 13)]
    assert [(text_of(one), one[-1].seed) for one in found] == [
        (text_of(one), one[-1].seed) for one in expected
    ]
    assert len({text_of(one) for one in found}) > 1


def test_samples_end_together_if_one_fails(server: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "prompt", "limit of 64"):
        generate(server, text="a" * 65, samples=3)
    wait_gone(server)
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        request = pb.GenerateRequest(model="lm", text="a", max_tokens=10_000_000, samples=3)
        list(server.sequences.Generate(request, timeout=0.3))
    wait_gone(server)


def test_top_log_probabilities_come_with_each_token(server: Served) -> None:
    """Greedy streams take the first of them. Those beside the stream want others, or none."""
    with ThreadPoolExecutor(8) as pool:
        wants = [
            pool.submit(
                generate,
                server,
                temperature=0,
                log_probabilities=True,
                seed=count,
                top_log_probabilities=count,
            )
            for count in (0, 1, 3, 20)
        ]
    for count, want in zip((0, 1, 3, 20), wants, strict=True):
        replies = want.result()
        top = [one for reply in replies for one in reply.top]
        if not count:
            assert not top
            continue
        chances = [chance for reply in replies for chance in reply.log_probabilities]
        assert [one.ids[0] for one in top] == tokens_of(replies)
        assert [one.log_probabilities[0] for one in top] == pytest.approx(chances)
        assert all(len(one.ids) == len(one.texts) == count for one in top)
        assert all(sorted(one.log_probabilities, reverse=True) == list(one.log_probabilities) for one in top)


def test_beams_of_a_stream_come_with_its_last_message(server: Served) -> None:
    """The first of them is the text, and better than the greedy one."""
    (reply,) = generate(server, decoding=pb.Decoding(beams=4))
    scores = [one.score for one in reply.alternatives]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    best = reply.alternatives[0]
    assert (best.text, best.tokens, best.reason) == (reply.text, reply.tokens, reply.reason)
    greedy = generate(server, temperature=0, log_probabilities=True)
    chances = [chance for one in greedy for chance in one.log_probabilities]
    assert best.score > sum(chances) / len(chances)


def test_beams_of_a_translation_are_the_same_in_any_batch(server: Served, place: str) -> None:
    for model in TRANSLATORS[place]:
        _check_beams_in_any_batch(server, model)


def _check_beams_in_any_batch(server: Served, model: str) -> None:
    """Also from a prefill graph without scores, and beside streams that want attention."""
    sent = [pb.Decoding(beams=beams) for beams in (1, 3, 4)] * 8
    sources = ["abc de"[: 2 + index % 5] + "fghi" for index in range(len(sent))]
    alone = [translate(server, one, model, decoding=how) for one, how in zip(sources, sent, strict=True)]
    with ThreadPoolExecutor(24) as pool:
        attended = [pool.submit(translate, server, one, model, attention=True) for one in sources]
        together = list(pool.map(lambda one, how: translate(server, one, model, decoding=how), sources, sent))
    assert [texts_of(one) for one in together] == [texts_of(one) for one in alone], model
    assert [tokens_of(one.result()) for one in attended][::3] == [tokens_of(one) for one in alone][::3]


def texts_of(replies: list[Any]) -> Any:
    return tokens_of(replies), [(list(one.tokens), one.score) for one in replies[-1].alternatives]


def test_log_probabilities_come_with_each_token(server: Served) -> None:
    replies = generate(server, log_probabilities=True, temperature=0)
    chances = [chance for reply in replies for chance in reply.log_probabilities]
    assert len(chances) == len(tokens_of(replies)) == 20
    assert all(chance <= 0 for chance in chances)
    assert min(chances) > -5  # the best of 21


def test_generation_ends_when_a_growing_cache_is_full(server: Served) -> None:
    replies = generate(server, "cached", "abc", max_tokens=100)
    assert replies[-1].reason == pb.STOP_REASON_LENGTH
    assert 36 <= len(tokens_of(replies)) <= 40


def test_a_translation_returns_attention_if_requested(server: Served) -> None:
    replies = translate(server, "abc def", attention=True)
    assert list(replies[0].source_tokens) == list("abc def")
    assert all(not reply.source_tokens for reply in replies[1:])
    rows = [row.weights for reply in replies for row in reply.attention]
    pieces = [piece for reply in replies for piece in reply.pieces]
    assert len(rows) == len(pieces) == len(tokens_of(replies)) > 0
    for row in rows:
        assert len(row) == 7
        assert sum(row) == pytest.approx(1, abs=1e-5)
    plain = translate(server, "abc def")
    assert tokens_of(plain) == tokens_of(replies)
    assert not any(reply.attention or reply.pieces for reply in plain)


_SMALL_WINDOWS = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]


# --- batching -------------------------------------------------------------------------------------


RULES: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.4},
    {"presence_penalty": 0.8, "forbidden": [3, 4]},
    {"no_repeat": 2, "min_tokens": 5},
    {"logit_bias": {5: 2.0, 6: -2.0}},
]


SEEDED = {
    "threads": ("lm", "forced", "timed", "cached", "unmasked"),
    "a process": ("lm",),
    FRONT_ENDS: ("lm",),
    "states on the device": ("lm", "cached"),
}
"""The models that are compared in each place: how messages travel does not depend on the graph, and where
states are kept only on their kind."""


def test_a_seed_gives_the_same_text_in_any_batch(server: Served, place: str) -> None:
    for model in SEEDED[place]:
        _check_any_batch(server, model)


def _check_any_batch(server: Served, model: str) -> None:
    """64 concurrent requests with different lengths, prompts and ways to choose tokens, beam searches too."""
    rng = random.Random(3)
    requests: list[dict[str, Any]] = [
        {
            "text": "".join(rng.choices("abcdefghij", k=rng.randint(1, 12))),
            "seed": seed,
            "max_tokens": rng.randint(1, 30),
            "temperature": rng.choice([0, 0.7, 1, 1.5]),
            "top_k": rng.choice([0, 0, 3]),
            "top_p": rng.choice([0, 0, 0.6]),
            "log_probabilities": seed % 5 == 0,
        }
        for seed in range(64)
    ]
    for index in range(0, 64, 4):
        requests[index]["decoding"] = pb.Decoding(**rng.choice(RULES))
    for index in range(1, 64, 8):
        searched = {"temperature": 0, "top_k": 0, "top_p": 0, "log_probabilities": False}
        requests[index] |= searched | {"decoding": pb.Decoding(beams=rng.randint(2, 5), **rng.choice(RULES))}
    expected = [texts_of(generate(server, model, **request)) for request in requests]
    with ThreadPoolExecutor(64) as pool:
        batched = list(pool.map(lambda request: generate(server, model, **request), requests))
    assert [texts_of(replies) for replies in batched] == expected, model
    assert max(replies[-1].timings.batch_rows for replies in batched) > 1


def test_a_cache_that_must_not_be_padded_is_not(server: Served) -> None:
    """Each token is the most likely one after the mean of all vectors so far."""
    weights = {
        name: numpy_helper.to_array(array) for name, array in _initializers(steps.unmasked_step()).items()
    }
    past, expected = [steps.TOKENS.index(letter) for letter in "abc"], []
    for _ in range(40 - len(past)):
        scores = weights["E"][past].mean(axis=0) @ weights["O"]
        expected.append(int(scores.argmax()))
        past.append(expected[-1])
    replies = generate(server, "unmasked", "abc", temperature=0, max_tokens=len(expected))
    assert tokens_of(replies) == expected
    assert "only sequences of equal past share a step" in replies[-1].notice


def _initializers(graph: Any) -> dict[str, Any]:
    return {array.name: array for array in graph.graph.initializer}


def test_translations_are_the_same_in_any_batch(server: Served, place: str) -> None:
    """Also with a model whose sources must not be padded."""
    for model in TRANSLATORS[place]:
        _check_translations_in_any_batch(server, model)


def _check_translations_in_any_batch(server: Served, model: str) -> None:
    rng = random.Random(4)
    sources = ["".join(rng.choices("abcdefghij ", k=rng.randint(1, 39))) + "a" for _ in range(48)]
    expected = [translate(server, source, model, attention=True) for source in sources]
    with ThreadPoolExecutor(48) as pool:
        batched = list(pool.map(lambda source: translate(server, source, model, attention=True), sources))

    def output(replies: list[pb.TranslateReply]) -> Any:
        return tokens_of(replies), [list(row.weights) for reply in replies for row in reply.attention]

    assert [output(one) for one in batched] == [output(one) for one in expected], model


# --- errors, cancels, deadlines, slow readers -----------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "a prompt that is too long": ({"text": "a" * 65}, "prompt", "limit of 64"),
    "an id outside": ({"ids": pb.Ids(ids=[1, 99])}, "ids", "99"),
    "a negative temperature": ({"text": "a", "temperature": -1}, "temperature", "0 or more"),
    "no number for a temperature": ({"text": "a", "temperature": float("nan")}, "temperature", "0 or more"),
    "top_p above 1": ({"text": "a", "top_p": 1.5}, "top_p", "from 0 to 1"),
    "an empty stop string": ({"text": "a", "stop": [""]}, "stop[0]", "1 to 256"),
    "too many stop strings": ({"text": "a", "stop": ["x"] * 17}, "stop", "at most 16"),
    "no repetition penalty": (
        {"text": "a", "decoding": pb.Decoding(repetition_penalty=0)}, "decoding.repetition_penalty", "0.001",
    ),
    "a bias without end": (
        {"text": "a", "decoding": pb.Decoding(logit_bias={7: float("inf")})}, "decoding.logit_bias[7]",
        "1e+06",
    ),
    "a bias of no id": (
        {"text": "a", "decoding": pb.Decoding(logit_bias={-7: 1})}, "decoding.logit_bias", "-7",
    ),
    "a forbidden id that is none": (
        {"text": "a", "decoding": pb.Decoding(forbidden=[-1])}, "decoding.forbidden", "-1",
    ),
    "too many beams": ({"text": "a", "decoding": pb.Decoding(beams=65)}, "decoding.beams", "at most 64"),
    "beams and a temperature": (
        {"text": "a", "temperature": 0.5, "decoding": pb.Decoding(beams=2)}, "temperature", "leave it out",
    ),
    "beams and stop strings": (
        {"text": "a", "stop": ["b"], "decoding": pb.Decoding(beams=2)}, "stop", "leave it out",
    ),
    "too many samples": ({"text": "a", "samples": 17}, "samples", "at most 16"),
    "beams and samples": (
        {"text": "a", "samples": 2, "decoding": pb.Decoding(beams=2)}, "samples", "leave it out",
    ),
    "too many top tokens": (
        {"text": "a", "top_log_probabilities": 21}, "top_log_probabilities", "at most 20",
    ),
    "a model of another task": ({"text": "a", "model": "translator"}, "model", "'translate'"),
    "a model without text": ({"text": "a", "model": "adder"}, "model", "'tensor'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_field_and_the_remedy(server: Served, case: str) -> None:
    fields, field, words = BAD[case]
    request = pb.GenerateRequest(**{"model": "lm", **fields})
    with refused(grpc.StatusCode.INVALID_ARGUMENT, field, words):
        list(server.sequences.Generate(request, timeout=PATIENCE_S))


def test_an_invalid_source_is_rejected(server: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "source", "limit of 40"):
        translate(server, "a" * 41)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "text", "at least one word"):
        translate(server, "  ")
    with refused(grpc.StatusCode.NOT_FOUND):
        list(server.sequences.Translate(pb.TranslateRequest(model="none", text="a"), timeout=PATIENCE_S))


def start_endless(server: Served, seed: int = 0, **more: Any) -> Any:
    request = pb.GenerateRequest(model="lm", text="a", max_tokens=10_000_000, seed=seed)
    return server.sequences.Generate(request, **{"timeout": PATIENCE_S, **more})


def running(server: Served, state: str = "running") -> float:
    return server.metric("lockstep_sequences", model="lm", state=state)


def wait_gone(server: Served) -> None:
    wait_until(lambda: server.in_flight() == 0, "no call in flight")
    # The gauge is updated with the next events of the engine.
    generate(server, max_tokens=1)
    wait_until(lambda: running(server) == 0, "no sequence running")


def test_a_cancelled_stream_does_not_affect_the_others(server: Served) -> None:
    expected = {seed: tokens_of(generate(server, seed=seed, max_tokens=300)) for seed in range(4)}
    for cancelled in range(4):
        with ThreadPoolExecutor(4) as pool:
            others = [
                pool.submit(generate, server, seed=seed, max_tokens=300)
                for seed in range(4)
                if seed != cancelled
            ]
            call = start_endless(server, cancelled)
            next(call)
            call.cancel()
            streams = [tokens_of(one.result()) for one in others]
        assert streams == [expected[seed] for seed in range(4) if seed != cancelled]
    wait_gone(server)


def test_a_deadline_ends_a_stream_between_two_steps(server: Served) -> None:
    call = start_endless(server, timeout=0.3)
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        list(call)
    wait_gone(server)


def test_streams_of_a_closed_connection_leave_nothing(server: Served) -> None:
    channel = grpc.insecure_channel(server.address)
    calls = [
        channel.unary_stream(
            "/lockstep.v1.Sequences/Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateReply.FromString,
        )(pb.GenerateRequest(model="lm", text="a", max_tokens=10_000_000))
        for _ in range(8)
    ]
    for call in calls:
        next(call)
    channel.close()
    wait_gone(server)


def test_a_slow_reader_delays_no_other_stream_and_can_resume(server: Served) -> None:
    """The gRPC windows fill, no credit returns, the sequence pauses; other streams are not affected."""
    others = 0

    def only_another_stream_runs() -> bool:
        nonlocal others
        before = total()
        assert len(tokens_of(generate(server, seed=3, max_tokens=500))) == 500
        others += 500
        return total() == before + 500 and running(server, "idle") == 1

    def total() -> int:
        return int(server.metric("lockstep_tokens_total", model="lm"))

    start = total()
    with small_windows(server) as sequences:
        call = sequences.Generate(long_request())
        got = list(next(call).tokens)
        wait_until(only_another_stream_runs, "the sequence is paused")
        paused_at = total() - start - others
        while len(got) < paused_at + 1000:
            got += next(call).tokens
        call.cancel()
    request = pb.GenerateRequest(model="lm", text="a", max_tokens=len(got), seed=5)
    assert got == tokens_of(list(server.sequences.Generate(request, timeout=PATIENCE_S)))
    wait_gone(server)


def long_request() -> pb.GenerateRequest:
    """A request whose stream soon fills the flow-control window."""
    return pb.GenerateRequest(model="lm", text="a", max_tokens=10_000_000, seed=5, log_probabilities=True)


@contextmanager
def small_windows(server: Served) -> Iterator[Any]:
    """A client with small fixed windows: unread output soon stays on the server."""
    with grpc.insecure_channel(server.address, _SMALL_WINDOWS) as channel:
        yield sequences_pb2_grpc.SequencesStub(channel)


def test_tokens_are_counted_and_accepted_requests_have_ended(server: Served) -> None:
    before = server.metric("lockstep_tokens_total", model="lm")
    tokens = len(tokens_of(generate(server, max_tokens=33)))
    assert server.metric("lockstep_tokens_total", model="lm") == before + tokens
    accepted = server.metric("lockstep_accepted_total", model="lm")
    assert accepted == server.metric("lockstep_requests_total", model="lm")
    assert server.metric("lockstep_first_token_seconds_count", model="lm") > 0
    assert server.metric("lockstep_inter_token_seconds_count", model="lm") > 0
    assert server.metric("lockstep_slots", model="lm") == 64


def test_scores_that_are_not_finite_fail_their_request_only(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    """The letter b turns the state, and all scores after it, into NaN."""
    folder = steps.language(tmp_path)
    for file in ("step.onnx", "prefill.onnx"):
        graph = onnx.load(folder / file)
        (table,) = (one for one in graph.graph.initializer if one.name == "E")
        rows = numpy_helper.to_array(table).copy()
        rows[steps.TOKENS.index("b")] = np.nan
        table.CopyFrom(numpy_helper.from_array(rows, "E"))
        onnx.save(graph, folder / file)
    server = serving(tmp_path)
    for temperature in (0, 1):
        with refused(grpc.StatusCode.INTERNAL, words="not finite"):
            generate(server, text="ab", temperature=temperature)
        assert len(tokens_of(generate(server, text="a", temperature=temperature, max_tokens=1))) == 1
    server.wait_idle()


def test_stopping_with_streams_in_flight_logs_no_error(
    tmp_path: Path, serving: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    steps.language(tmp_path)
    server = serving(tmp_path)
    calls = [start_endless(server, seed) for seed in range(4)]
    for call in calls:
        next(call)
    server.engine("lm").stop(0.0)
    for call in calls:
        with refused(grpc.StatusCode.UNAVAILABLE):
            list(call)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_self_test_results_and_costs_are_cached(
    tmp_path: Path, serving: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.language(tmp_path / "models")
    fakes.write_model(tmp_path / "models", "same", fakes.identity())
    first = serving(tmp_path / "models", cache=str(tmp_path / "cache"))
    found = first.app.registry.resolve("lm").spec
    monkeypatch.setattr("lockstep_server.engine.loading.selftest_steps.check", lambda *_: 1 / 0)
    monkeypatch.setattr("lockstep_server.engine.loading.selftest.check", lambda *_: 1 / 0)
    monkeypatch.setattr("lockstep_server.engine.loading.loader.measure_costs", lambda *_: 1 / 0)
    again = serving(tmp_path / "models", cache=str(tmp_path / "cache"))
    assert again.app.registry.resolve("lm").spec == found
    assert fakes.values(again.infer(fakes.floats("same", [[3]])), "y").item() == 3
    assert found.deterministic


def test_selecting_an_unknown_model_is_an_error(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path)
    with pytest.raises(LoadError, match=r"--only nobody: unknown model in .*; available: lm"):
        serving(tmp_path, only="lm,nobody")


# --- overload and shutdown ------------------------------------------------------------------------


def test_streams_beyond_the_slots_wait_and_complete(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path, more="[batching]\nmax_queue_ms = 60000\n")
    server = serving(tmp_path)
    with ThreadPoolExecutor(100) as pool:
        streams = list(pool.map(lambda seed: generate(server, seed=seed, max_tokens=200), range(100)))
    assert all(len(tokens_of(one)) == 200 for one in streams)


def test_streams_beyond_the_queue_limit_are_rejected_with_a_retry_delay(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    folder = steps.language(tmp_path)
    manifest = folder.parent / "model.toml"
    manifest.write_text(manifest.read_text().replace("max_sequences = 64", "max_sequences = 2"))
    server = serving(tmp_path)
    first = [start_endless(server, seed) for seed in range(2)]
    for call in first:
        next(call)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
        list(start_endless(server))  # no slot is freed within max_queue_ms
    assert any(key == "grpc-retry-pushback-ms" for key, _ in caught.value.trailing_metadata())
    assert server.serving("lm")
    for call in [start_endless(server) for _ in range(6)]:
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
            list(call)
    for call in first:
        call.cancel()
    assert len(tokens_of(generate(server))) == 20


def test_a_stream_whose_reader_stalls_is_ended(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path)
    server = serving(tmp_path, max_stall_s=0.3)
    with small_windows(server) as sequences:
        call = sequences.Generate(long_request())
        next(call)
        wait_until(lambda: server.in_flight() == 0, "the stream is ended")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, words="read nothing"):
            list(call)


def test_two_hundred_cancelled_streams_leave_nothing(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path)
    server = serving(tmp_path)
    for _ in range(4):
        calls = [start_endless(server, seed) for seed in range(50)]
        for call in calls[::7]:
            next(call)
        for call in calls:
            call.cancel()
    server.wait_idle()
    calls = [start_endless(server, seed) for seed in range(int(server.metric("lockstep_slots", model="lm")))]
    for call in calls:  # every slot is free
        next(call)
    h_and_c = 2 * steps.WIDTH * np.dtype(np.float32).itemsize
    wait_until(lambda: server.metric("lockstep_state_bytes", model="lm") == 64 * h_and_c, "64 states")
    for call in calls:
        call.cancel()
    wait_gone(server)
    wait_until(lambda: server.metric("lockstep_state_bytes", model="lm") == 0, "no states")
    for state in ("waiting", "idle"):
        assert running(server, state) == 0


def test_unloading_ends_streams_with_unavailable(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path)
    server = serving(tmp_path)
    call = start_endless(server)
    next(call)
    stopper = threading.Thread(target=server.engine("lm").stop, args=(0.05,))
    stopper.start()
    with refused(grpc.StatusCode.UNAVAILABLE):
        list(call)
    stopper.join()
