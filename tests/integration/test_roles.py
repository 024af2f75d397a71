"""Outputs mean what their roles say: one row of scores, one vector, finite numbers; else an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
from integration.harness import Served, refused, serve
from onnx import TensorProto, helper
from patience import PATIENCE_S

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto.v1 import sequences_pb2 as spb

if TYPE_CHECKING:
    from collections.abc import Iterator

INVALID, INTERNAL = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL
NAN, INFINITE, RULED_OUT, HUGE = 6, 7, 8, 9  # ids of these rows of EMBEDDINGS; 0 is padding
EMBEDDINGS = np.random.default_rng(3).normal(size=(10, 4)).astype(np.float32)
EMBEDDINGS[0] = EMBEDDINGS[NAN, 1] = np.nan
EMBEDDINGS[INFINITE, 1] = np.inf
EMBEDDINGS[RULED_OUT] = [1, 2, -np.inf, 0]
EMBEDDINGS[HUGE] = 1e30

MANIFEST = """
text.source = "tokenizer.json"
lengths.words.max = 64
inputs.tokens = {{batch_axis = 0, lengths = {{1 = "words"}}, range = [1, 10]}}
{0}
"""
CLASSIFY = (
    'task = "classify"\nlabels = ["a", "b", "c", "d"]\nroles.scores = "out"\noutputs.out.batch_axis = 0'
)
PER_WORD = 'outputs.out = {{batch_axis = 0, lengths = {{1 = "words"}}{0}}}'
POOLINGS = ("mean", "first", "last", "max")


def per_word(datatype: str = "INT64", nodes: Any = ()) -> Any:
    """tokens [batch, words] -> out [batch, words, 4]: their embeddings, or what `nodes` make of them."""
    tokens, out = fakes.tensor("tokens", datatype, ("batch", "words")), ("batch", "words", 4)
    return fakes.model(
        [helper.make_node("Gather", ["E", "tokens"], ["out" if not nodes else "e"]), *nodes],
        [tokens],
        [fakes.tensor("out", shape=out if not nodes else ("batch", 4))],
        [fakes.constant("E", EMBEDDINGS, np.float32), fakes.constant("one", 1, np.int64)],
    )


def sum_of_words() -> Any:
    return helper.make_node("ReduceSum", ["e", "axis"], ["out"], keepdims=0)


def with_open_width(graph: Any, constants: Any) -> Any:
    """The graph with its output reshaped, to the same shape, by numbers that are not known before a run."""
    nodes = graph.graph.node
    nodes[-1].output[0] = "closed"
    nodes.append(helper.make_node("Shape", ["closed"], ["whole"]))
    nodes.append(helper.make_node("Cast", ["whole"], ["floats"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Cast", ["floats"], ["sizes"], to=TensorProto.INT64))
    nodes.append(helper.make_node("Reshape", ["closed", "sizes"], ["out"]))
    graph.graph.initializer.extend(constants)
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "k"
    return graph


def last_word() -> Any:
    """tokens [words, batch] -> out [batch, 4], the embedding of the last word."""
    return fakes.model(
        [
            helper.make_node("Gather", ["tokens", "minus"], ["last"], axis=0),
            helper.make_node("Gather", ["E", "last"], ["out"]),
        ],
        [fakes.tensor("tokens", "INT32", ("words", "batch"))],
        [fakes.tensor("out", shape=("batch", 4))],
        [fakes.constant("E", EMBEDDINGS, np.float32), fakes.constant("minus", -1, np.int64)],
    )


def write(root: Any, name: str, graph: Any, manifest: str) -> None:
    folder = fakes.write_model(root, name, graph, manifest)
    fakes.write_tokenizer(folder / "tokenizer.json", [f"w{k}" for k in range(2, 10)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    first = (helper.make_node("Gather", ["e", "zero"], ["out"], axis=1),)
    graph = per_word("INT32", first)
    graph.graph.initializer.append(fakes.constant("zero", 0, np.int64))
    write(root, "classifier", graph, MANIFEST.format(CLASSIFY))
    encode = 'task = "encode"\nroles.vector = "out"\n'
    write(root, "vectors", graph, MANIFEST.format(encode + "outputs.out.batch_axis = 0"))
    write(root, "unpooled", per_word(), MANIFEST.format(encode + PER_WORD.format("")))
    write(root, "flattened", per_word(), MANIFEST.format(CLASSIFY))
    sums = fakes.constant("axis", [2], np.int64)
    for name, nodes, constants, task in (
        ("four-scores", first, graph.graph.initializer[-1:], CLASSIFY.replace(', "d"', "")),
        ("one-number-per-word", (sum_of_words(),), [sums], encode + "outputs.out.batch_axis = 0"),
    ):
        write(root, name, with_open_width(per_word("INT64", nodes), constants), MANIFEST.format(task))
    for pooling in POOLINGS:
        option = f', pooling = "{pooling}", normalise = {str(pooling == "max").lower()}'
        write(root, pooling, per_word(), MANIFEST.format(encode + PER_WORD.format(option)))
    turned = MANIFEST.replace('batch_axis = 0, lengths = {{1 = "words"}}', "batch_axis = 1").replace(
        "lengths.words.max = 64\n", ""
    )
    write(root, "time-first", last_word(), turned.format(CLASSIFY + "\nbatching.max_rows = 1"))
    with serve(root) as running:
        yield running


def classify(server: Served, model: str, *ids: int) -> Any:
    request = spb.ClassifyRequest(model=model, ids=[spb.Ids(ids=ids)])
    return server.sequences.Classify(request, timeout=PATIENCE_S).results[0]


def encode(server: Served, model: str, *rows: list[int]) -> list[Any]:
    request = spb.EncodeRequest(model=model, ids=[spb.Ids(ids=row) for row in rows])
    results = server.sequences.Encode(request, timeout=PATIENCE_S).results
    return [np.array(result.vector, np.float32) for result in results]


def reason(server: Served, model: str) -> str:
    index = server.inference.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=PATIENCE_S)
    return str(next(entry.reason for entry in index.models if entry.name == model))


def test_scores_or_vectors_of_each_word_are_refused_at_load_with_the_remedy(server: Served) -> None:
    assert "roles.scores" in reason(server, "flattened")
    assert 'task = "token-classification"' in reason(server, "flattened")
    assert "outputs.out.pooling: missing" in reason(server, "unpooled")


def test_shapes_that_the_graph_leaves_open_are_found_by_a_run(server: Served) -> None:
    assert "[1, 4], not 3 scores" in reason(server, "four-scores")
    assert "has 3 and 7 numbers for texts of different lengths" in reason(server, "one-number-per-word")


@pytest.mark.parametrize("word", [NAN, INFINITE])
def test_scores_and_vectors_that_are_not_finite_fail_alone(server: Served, word: int) -> None:
    """Requests that share a run with them are answered."""
    for model, send, message in (
        ("classifier", server.sequences.Classify, spb.ClassifyRequest),
        ("vectors", server.sequences.Encode, spb.EncodeRequest),
    ):
        calls = []
        with server.hold():
            for ids in ([1, 2], [word, 2], [3, 4]):
                request = message(model=model, ids=[spb.Ids(ids=ids)])
                calls.append(send.future(request, timeout=PATIENCE_S))
            server.wait_waiting(model, 3)
        assert len(calls[0].result().results) == len(calls[2].result().results) == 1
        with refused(INTERNAL, words="NaN or infinite"):
            calls[1].result()
    assert server.metric("lockstep_requests_total", model="classifier", outcome="failed") >= 1


def test_the_tensor_api_returns_what_the_graph_returns(server: Served) -> None:
    ids = np.array([[NAN, 2]])
    for model, datatype, expected in (
        ("vectors", "INT32", EMBEDDINGS[[NAN]]),
        ("mean", "INT64", EMBEDDINGS[ids]),
    ):
        reply = server.infer(fakes.request(model, {"tokens": (datatype, ids)}))
        np.testing.assert_array_equal(fakes.values(reply, "out"), expected)


def test_a_score_of_minus_infinity_rules_a_label_out(server: Served) -> None:
    labels = {label.name: label.probability for label in classify(server, "classifier", RULED_OUT).labels}
    assert labels["c"] == 0
    assert sum(labels.values()) == pytest.approx(1)


def test_ids_and_texts_reach_a_model_of_int32_as_they_are(server: Served) -> None:
    by_text = server.sequences.Classify(
        spb.ClassifyRequest(model="classifier", texts=["w3 w4"]), timeout=PATIENCE_S
    )
    assert by_text.results[0].labels[0].score == EMBEDDINGS[3].max()
    with refused(INVALID, "ids[0]", "id 4294967299 is outside"):
        classify(server, "classifier", 3 + 2**32)
    with refused(INVALID, "ids[0]", "is outside"):
        classify(server, "time-first", 3 + 2**32)


def test_a_text_is_one_row_if_the_batch_axis_is_the_second(server: Served) -> None:
    assert classify(server, "time-first", 3, 5).labels[0].score == EMBEDDINGS[5].max()


def pooled(row: list[int], pooling: str) -> Any:
    words = EMBEDDINGS[row].astype(np.float64)
    vector = {"mean": words.mean(0), "first": words[0], "last": words[-1], "max": words.max(0)}[pooling]
    return vector / np.linalg.norm(vector) if pooling == "max" else vector


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_reads_real_words_only_alone_and_in_any_batch(server: Served, pooling: str) -> None:
    """The embedding of padding is NaN: it must not reach a vector."""
    rng = np.random.default_rng(5)
    rows = [rng.integers(1, 6, size).tolist() for size in (1, 2, 3, 9, 30, 64, 4)]
    alone = [encode(server, pooling, row)[0] for row in rows]
    for row, vector in zip(rows, alone, strict=True):
        np.testing.assert_allclose(vector, pooled(row, pooling), rtol=1e-5, atol=1e-6)
    with server.hold():
        request = spb.EncodeRequest(model=pooling, ids=[spb.Ids(ids=row) for row in rows])
        call = server.sequences.Encode.future(request, timeout=PATIENCE_S)
        server.wait_waiting(pooling, len(rows))
    results = call.result().results
    assert max(result.timings.batch_rows for result in results) > 1
    for result, vector in zip(results, alone, strict=True):
        np.testing.assert_array_equal(np.array(result.vector, np.float32), vector)


def test_a_vector_that_is_pooled_from_nan_is_an_error(server: Served) -> None:
    with refused(INTERNAL, words="NaN or infinite"):
        encode(server, "mean", [1, NAN])
    assert len(encode(server, "first", [1, NAN])) == 1
