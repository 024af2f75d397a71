"""Both clients against the fake gRPC server: the same tests for each."""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
import threading
import time
from importlib.resources import files
from typing import Any

import grpc
import numpy as np
import pytest
from patience import PATIENCE_S, wait_until

import lockstep_client as lc
from lockstep_client import calls, many_calls, operations, sequences, stream_calls


def test_classify_returns_a_result_per_text_in_order(client):
    one, two = client.classify("sentiment", ["good film", "a b c"])
    assert (one.best.name, one.best.probability, one.length, two.length) == ("positive", 0.75, 2, 3)
    assert (one.model, one.version, one.notice) == ("sentiment", "2", "")
    assert one.timings == lc.Timings(queue_s=0.5, compute_s=0.25, steps=1, batch_rows=3.0)


def test_one_text_gives_a_list_of_one(client):
    assert [len(a.labels) for a in client.classify("sentiment", "good film", top_k=1)] == [1]


def test_classify_sends_its_arguments(server, client):
    client.classify("other", ids=np.array([[1, 2], [3, 4]]), version="7", priority=3, queue_timeout_s=0.5)
    (sent,) = server.requests
    assert [list(row.ids) for row in sent.ids] == [[1, 2], [3, 4]]
    assert (sent.model, sent.version, sent.priority, sent.queue_timeout_seconds) == ("other", "7", 3, 0.5)


def test_encode_returns_vectors_and_requested_attention(client):
    (plain,) = client.encode("sentiment", "good film")
    assert plain.attention is None
    assert plain.vector.dtype == np.float32
    assert plain.vector.tolist() == [0.5, -1.0, 2.0]
    (full,) = client.encode("sentiment", "good film", attention=True)
    assert full.attention.shape == (1, 2, 2, 2)
    assert full.tokens == ("good", "film")


def test_infer_sends_and_returns_arrays(server, client):
    inputs = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.array(["x", "yz"], object)}
    result = client.infer("sentiment", inputs, outputs=["a"], priority=2, queue_timeout_s=0.25)
    assert np.array_equal(result["a"], inputs["a"])
    assert result["b"].tolist() == [b"x", b"yz"]
    assert (result.model, result.version, dict(result.parameters)) == ("sentiment", "1", {"rows": 4})
    (sent,) = server.requests
    assert [o.name for o in sent.outputs] == ["a"]
    assert sent.parameters["priority"].uint64_param == 2
    assert sent.parameters["timeout"].int64_param == 250_000


def test_infer_reads_typed_contents(server, client):
    server.typed = True
    assert client.infer("sentiment", {"a": np.array([1, 2], np.int32)})["a"].tolist() == [7, 8]


def test_models_metadata_server_and_health(client):
    assert [(m.name, m.ready) for m in client.models()] == [
        ("sentiment", True),
        ("other", True),
        ("broken", False),
    ]
    assert [m.name for m in client.models(ready=True)] == ["sentiment", "other"]
    metadata = client.metadata("sentiment")
    assert metadata.inputs == (lc.TensorSpec("tokens", "INT64", (-1, -1)),)
    assert (metadata.platform, metadata.versions) == ("onnxruntime", ("1", "2"))
    assert client.server() == lc.ServerInfo("fake", "0.1", ("statistics",))
    assert client.health().serving
    assert client.health("sentiment") == lc.Health("sentiment", "SERVING")
    with pytest.raises(lc.ModelNotFound):
        client.health("nothing")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"texts": []}, "texts"),
        ({"texts": ["a"], "ids": [[1]]}, "texts"),
        ({"texts": ["a", 3]}, "texts\\[1\\]"),
        ({"texts": ["\ud800"]}, "texts\\[0\\]"),
        ({"ids": [[1], [2**70]]}, "ids\\[1\\]"),
        ({"ids": [["a"]]}, "ids\\[0\\]"),
        ({"texts": ["a"], "top_k": -1}, "top_k"),
        ({"texts": ["a"], "priority": -1}, "priority"),
        ({"texts": ["a"], "queue_timeout_s": float("nan")}, "queue_timeout_s"),
    ],
)
def test_an_invalid_argument_names_its_field_and_is_not_sent(server, client, arguments, field):
    with pytest.raises(lc.InvalidRequest, match=f"^{field}: "):
        client.classify("sentiment", **arguments)
    assert server.requests == []


def test_an_empty_model_name_is_not_sent(server, client):
    with pytest.raises(lc.InvalidRequest, match=r"^model: "):
        client.infer("", {})
    assert server.requests == []


def test_unavailable_is_retried(server, client, failure):
    server.failures += [failure(grpc.StatusCode.UNAVAILABLE, "loading")] * 2
    assert client.classify("sentiment", "good")[0].best.name == "positive"
    assert len(server.requests) == 3


def test_retries_are_limited(server, connect, failure):
    server.failures += [failure(grpc.StatusCode.UNAVAILABLE, "loading")] * 9
    with connect(server.address, retries=1) as client, pytest.raises(lc.Unavailable, match="loading"):
        client.classify("sentiment", "good")
    assert len(server.requests) == 2


def test_zero_retries_is_one_attempt(server, connect, failure):
    server.failures.append(failure(grpc.StatusCode.UNAVAILABLE, "loading"))
    with connect(server.address, retries=0) as client, pytest.raises(lc.Unavailable):
        client.classify("sentiment", "good")
    assert len(server.requests) == 1


def test_overload_is_retried_after_the_pushback(server, client, failure):
    pushback = (("grpc-retry-pushback-ms", "400"),)
    server.failures.append(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (), pushback))
    start = time.monotonic()
    client.classify("sentiment", "good")
    assert time.monotonic() - start >= 0.4
    assert len(server.requests) == 2


def test_a_negative_pushback_prevents_retries(server, client, failure):
    pushback = (("grpc-retry-pushback-ms", "-1"),)
    server.failures.append(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (), pushback))
    with pytest.raises(lc.Overloaded):
        client.classify("sentiment", "good")
    assert len(server.requests) == 1


@pytest.mark.parametrize("sequence_id", [7, "seven"])
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_step_of_a_sequence_is_never_retried(server, client, failure, sequence_id, code):
    pushback = (("grpc-retry-pushback-ms", "1"),)
    server.failures += [failure(code, "lost", (), pushback)]
    with pytest.raises((lc.Unavailable, lc.Overloaded)):
        client.infer("sentiment", {"a": np.array([1])}, sequence_id=sequence_id)
    assert len(server.requests) == 1


def test_other_tensor_calls_are_retried(server, client, failure):
    server.failures += [failure(grpc.StatusCode.UNAVAILABLE, "loading")]
    client.infer("sentiment", {"a": np.array([1])})
    assert len(server.requests) == 2


@pytest.mark.parametrize(("sequence_id", "field"), [(7, "int64_param"), ("seven", "string_param")])
def test_a_sequence_sends_its_id_start_and_end(server, client, sequence_id, field):
    client.infer("sentiment", {"a": np.array([1])}, sequence_id=sequence_id, sequence_start=True)
    sent = server.requests[0].parameters
    assert sent["sequence_id"].WhichOneof("parameter_choice") == field
    assert getattr(sent["sequence_id"], field) == sequence_id
    assert (sent["sequence_start"].bool_param, sent["sequence_end"].bool_param) == (True, False)


@pytest.mark.parametrize(
    "wrong", [{"sequence_start": True}, {"sequence_end": True}, {"sequence_id": -1}, {"sequence_id": 1 << 63}]
)
def test_invalid_sequence_arguments_are_not_sent(server, client, wrong):
    with pytest.raises(lc.InvalidRequest, match="sequence_id"):
        client.infer("sentiment", {"a": np.array([1])}, **wrong)
    assert server.requests == []


def test_models_are_loaded_and_unloaded(server, client):
    assert client.load_model("other") is None
    assert client.unload_model("other") is None
    assert [type(one).__name__ for one in server.requests] == [
        "RepositoryModelLoadRequest",
        "RepositoryModelUnloadRequest",
    ]
    with pytest.raises(lc.ModelNotFound):
        client.load_model("nothing")


def test_statistics_are_in_seconds(client):
    (one,) = client.model_statistics("sentiment")
    assert (one.name, one.version, one.last_inference_s, one.rows, one.runs) == ("sentiment", "2", 1.5, 5, 2)
    assert one.queue == lc.Duration(5, 2.0)
    assert one.runs_by_rows == {3: lc.Duration(1, 0.0)}


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
def test_permanent_errors_are_not_retried(server, client, failure, code):
    server.failures.append(failure(code, "no"))
    with pytest.raises(lc.LockstepError):
        client.classify("sentiment", "good")
    assert len(server.requests) == 1


def test_a_deadline_ends_the_call(server, client):
    server.answers.clear()
    with pytest.raises(lc.DeadlineExceeded, match=r"within 0\.2 s"):
        client.classify("sentiment", "good", timeout_s=0.2)


def test_the_default_deadline_applies_to_calls_without_one(server, connect):
    server.answers.clear()
    with connect(server.address, timeout_s=0.2) as client, pytest.raises(lc.DeadlineExceeded):
        client.models()


def test_token_and_metadata_are_sent_with_each_call(server, connect):
    with connect(server.address, token="secret", metadata=[("x-team", "a")]) as client:
        client.models()
    assert server.metadata[0]["authorization"] == "Bearer secret"
    assert server.metadata[0]["x-team"] == "a"


def test_a_closed_client_raises_cancelled(server, connect):
    with connect(server.address) as client:
        client.close()
        with pytest.raises(lc.Cancelled, match="closed"):
            client.models()


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "localhost"},
        {"address": "http://localhost:1"},
        {"retries": 5},
        {"timeout_s": 0},
        {"max_message_bytes": 1 << 31},
    ],
)
def test_invalid_settings_raise_at_once(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        lc.Client(**wrong)


def test_tls_is_used_when_requested(server):
    with lc.Client(server.address, tls=True, retries=0) as client, pytest.raises(lc.Unavailable):
        client.models()
    given = grpc.ssl_channel_credentials()
    with lc.Client(server.address, tls=given, retries=0) as client, pytest.raises(lc.Unavailable):
        client.models()
    assert server.requests == []


def test_threads_share_one_client(server):
    with lc.Client(server.address) as client:
        answers = []
        classify = lambda: answers.extend(client.classify("sentiment", "good"))  # noqa: E731
        threads = [threading.Thread(target=classify) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 8


async def test_async_calls_run_concurrently_and_are_cancelled_separately(server):
    async with lc.AsyncClient(server.address) as client:
        server.answers.clear()
        tasks = [asyncio.create_task(client.classify("sentiment", "good")) for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: len(server.requests) == 3, "three calls have arrived")
        tasks[1].cancel()
        server.answers.set()
        ends: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ends[1], asyncio.CancelledError)
    assert ends[0][0].best.name == ends[2][0].best.name == "positive"


async def test_closing_an_async_client_cancels_calls_in_flight(server):
    server.answers.clear()
    client = lc.AsyncClient(server.address)
    tasks = [
        asyncio.create_task(client.classify("sentiment", "good")),
        asyncio.create_task(client.generate("sentiment", "x").result()),
    ]
    assert await asyncio.to_thread(server.request_received.wait, PATIENCE_S)
    await client.close()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [lc.Cancelled, lc.Cancelled]
    server.answers.set()


def test_an_async_client_needs_a_running_loop():
    with pytest.raises(
        RuntimeError, match="AsyncClient needs a running event loop: create it inside a coroutine"
    ):
        lc.AsyncClient()


def test_an_async_client_of_another_loop_says_what_to_do():
    async def create():
        return lc.AsyncClient()

    async def call(client):
        await client.classify("m", "a text")

    async def stream(client):
        client.generate("m", "a text")

    client = asyncio.run(create())
    for use in (call, stream):
        with pytest.raises(RuntimeError, match=r"AsyncClient .* create one for each asyncio\.run"):
            asyncio.run(use(client))


def public_methods(kind):
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: inspect.signature(f) for name, f in found if not name.startswith("_")}


def test_both_clients_have_the_same_methods_and_signatures():
    ours, theirs = public_methods(lc.Client), public_methods(lc.AsyncClient)
    assert ours.keys() == theirs.keys()
    assert inspect.signature(lc.Client) == inspect.signature(lc.AsyncClient)
    for name in ours.keys() - {"close", "with_metadata"}:
        assert ours[name].parameters == theirs[name].parameters
        assert "timeout_s" in ours[name].parameters
        assert getattr(lc.Client, name).__doc__ == getattr(lc.AsyncClient, name).__doc__ != ""
        answer, awaited = ours[name].return_annotation, theirs[name].return_annotation
        is_stream = name in ("generate", "translate", "follow", "follow_frames", "runs") or name.endswith(
            "_many"
        )
        assert awaited == ("Async" + answer if is_stream else answer)
        assert inspect.iscoroutinefunction(getattr(lc.AsyncClient, name)) is not is_stream


def test_every_call_is_a_method():
    defined = {
        name
        for module in (calls, stream_calls, many_calls, operations, sequences)
        for name, one in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and one.__module__ == module.__name__ and name != "message_of"
    }
    assert public_methods(lc.Client).keys() == defined | {"close", "with_metadata"}


def documented():
    """Every public name, and every method of the clients and streams."""
    kinds = {name: getattr(lc, name) for name in lc.__all__ if name != "FLUSH"}
    methods = {
        f"{kind.__name__}.{name}": method
        for kind in (lc.Client, lc.AsyncClient, lc.Stream, lc.AsyncStream, lc.Outcomes, lc.AsyncOutcomes)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    return kinds | methods


@pytest.mark.parametrize(("name", "what"), documented().items(), ids=documented().keys())
def test_the_public_surface_is_documented_and_its_examples_are_python(name, what):
    doc = inspect.getdoc(what)
    assert doc
    assert not doc.startswith(f"{name}(")  # the default docstring of a dataclass
    lines = [line for line in doc.splitlines() if line.startswith("    ") or not line]
    ast.parse(textwrap.dedent("\n".join(lines)))


def test_the_package_is_marked_as_typed():
    assert files("lockstep_client").joinpath("py.typed").is_file()
