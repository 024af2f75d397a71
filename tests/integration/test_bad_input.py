"""Invalid input: the call fails with the right status and field, and no other request is affected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
from integration.harness import Served, fields, refused, serve
from patience import PATIENCE_S

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto.v1 import sequences_pb2 as spb

if TYPE_CHECKING:
    from collections.abc import Iterator

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND

TEXT_MANIFEST = """
task = "classify"
labels = ["no", "yes"]
[text]
source = "tokenizer.json"
[lengths.words]
max = 8
[inputs.tokens]
batch_axis = 0
lengths = {1 = "words"}
range = [0, 6]
[outputs.scores]
batch_axis = 0
[roles]
scores = "scores"
"""


def classifier() -> Any:
    """A classifier whose scores depend on the text's length only; padding (id 0) does not count."""
    from onnx import TensorProto, helper

    return fakes.model(
        [
            helper.make_node("Sign", ["tokens"], ["real"]),
            helper.make_node("ReduceSum", ["real", "axis"], ["count"], keepdims=1),
            helper.make_node("Cast", ["count"], ["score"], to=TensorProto.FLOAT),
            helper.make_node("Neg", ["score"], ["against"]),
            helper.make_node("Concat", ["against", "score"], ["scores"], axis=1),
        ],
        [fakes.tensor("tokens", "INT64", ("batch", "words"))],
        [fakes.tensor("scores", shape=("batch", 2))],
        [fakes.constant("axis", [1], np.int64)],
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    fakes.write_model(root, "same", fakes.identity())
    fakes.write_model(root, "three-wide", fakes.identity("FP32", ("n", 3)))
    fakes.write_model(root, "ids", fakes.identity("INT32"))
    fakes.write_model(root, "halves", fakes.identity("FP16"))
    fakes.write_model(root, "words", fakes.identity("BYTES"))
    fakes.write_model(root, "optional", fakes.with_optional())
    fakes.write_model(root, "mean", fakes.masked_mean(), fakes.MASKED_MANIFEST)
    folder = fakes.write_model(root, "text", classifier(), TEXT_MANIFEST)
    fakes.write_tokenizer(folder / "tokenizer.json")
    with serve(root, max_message_mb=1) as running:
        yield running


def message(
    model: str = "same",
    datatype: str = "FP32",
    shape: Any = (1, 1),
    raw: bytes | None = b"\0\0\0\0",
    name: str = "x",
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def twice() -> pb.ModelInferRequest:
    request = message()
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(b"\0\0\0\0")
    return request


def typed_and_raw() -> pb.ModelInferRequest:
    request = message()
    request.inputs[0].contents.fp32_contents.append(1)
    return request


def typed(model: str, field: str, values: list[Any], datatype: str, shape: Any) -> pb.ModelInferRequest:
    request = message(model, datatype, shape, None)
    getattr(request.inputs[0].contents, field).extend(values)
    return request


def text_ids(ids: Any) -> pb.ModelInferRequest:
    return fakes.request("text", {"tokens": ("INT64", ids)})


def shared_memory() -> pb.ModelInferRequest:
    request = message(raw=None)
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    return request


TENSORS: dict[str, tuple[Any, str, str]] = {
    # case: (request, field named in the error, text in the error)
    "datatype": (message(datatype="FP64", raw=bytes(8)), "x", "takes FP32"),
    "no datatype": (message(datatype=""), "x", "takes FP32"),
    "rank too low": (message(shape=[1]), "x", "1 axes"),
    "rank too high": (message(shape=[1, 1, 1]), "x", "3 axes"),
    "a fixed axis": (message("three-wide", shape=[1, 2], raw=bytes(8)), "x", "axis 1"),
    "too few bytes": (message(raw=b"\0\0\0"), "x", "3 bytes"),
    "too many bytes": (message(raw=bytes(8)), "x", "8 bytes"),
    "no bytes": (message(raw=b""), "x", "0 bytes"),
    "neither raw nor typed": (message(raw=None), "x", "0 elements"),
    "raw and typed": (typed_and_raw(), "x", "send one of them"),
    "too many raw entries": (
        pb.ModelInferRequest(model_name="same", raw_input_contents=[b"", b""]),
        "raw_input_contents",
        "2 entries",
    ),
    "a missing input": (pb.ModelInferRequest(model_name="same"), "x", "missing"),
    "a required input beside an optional one": (
        fakes.request("optional", {"bias": ("FP32", [1])}),
        "x",
        "missing",
    ),
    "an unknown input": (message(name="y"), "inputs[0].name", "no input 'y'"),
    "an input without a name": (message(name=""), "inputs[0].name", "no input ''"),
    "a duplicate input": (twice(), "x", "twice"),
    "an unknown output": (fakes.floats("same", [[1]], outputs=["z"]), "outputs[0].name", "no output 'z'"),
    "a negative size": (message(shape=[-1, 1]), "x", "negative"),
    "two negative sizes": (message(shape=[-1, -1]), "x", "negative"),
    "overflowing sizes": (message(shape=[2**62, 2**62]), "x", "4 bytes"),
    "overflowing sizes of nothing": (message(shape=[0, 2**62], raw=b""), "x", ""),
    "more elements than typed values": (
        typed("same", "fp32_contents", [1, 2], "FP32", [3, 1]),
        "x",
        "2 elements",
    ),
    "typed values in another field": (typed("same", "int_contents", [1], "FP32", [1, 1]), "x", "0 elements"),
    "typed FP16": (typed("halves", "fp32_contents", [1], "FP16", [1, 1]), "x", "no typed contents"),
    "BYTES that are not UTF-8": (fakes.request("words", {"x": ("BYTES", [[b"\xff\xfe"]])}), "x", "not UTF-8"),
    "typed BYTES that are not UTF-8": (
        typed("words", "bytes_contents", [b"\xff"], "BYTES", [1, 1]),
        "x",
        "not UTF-8",
    ),
    "BYTES that end inside a length": (message("words", "BYTES", [1, 1], b"\1\0"), "x", "length prefix"),
    "BYTES longer than what is there": (
        message("words", "BYTES", [1, 1], b"\xff\xff\xff\xffa"),
        "x",
        "bytes follow",
    ),
    "more BYTES than its shape": (
        message("words", "BYTES", [1, 1], b"\1\0\0\0a\1\0\0\0b"),
        "x",
        "2 elements",
    ),
    "shared memory": (shared_memory(), "x", "shared memory"),
    "ids below the range": (text_ids([[-1]]), "tokens", "id -1"),
    "ids above the range": (text_ids([[1, 6]]), "tokens", "id 6"),
    "a sequence too long": (text_ids([[1] * 9]), "tokens", "limit of 8"),
    "a sequence of nothing": (text_ids(np.zeros((1, 0))), "tokens", "no words"),
    "no rows": (text_ids(np.zeros((0, 1))), "tokens", "no rows"),
    "inputs of different lengths": (
        fakes.request("mean", {"x": ("FP32", [[1, 2]]), "mask": ("FP32", [[1]])}),
        "mask",
        "make them equal",
    ),
    "inputs of different rows": (
        fakes.request("mean", {"x": ("FP32", [[1], [2]]), "mask": ("FP32", [[1]])}),
        "mask",
        "make them equal",
    ),
    "a negative priority": (fakes.floats("same", [[1]], priority=-1), "parameters.priority", "-1"),
    "a timeout that is no number": (
        fakes.floats("same", [[1]], timeout="soon"),
        "parameters.timeout",
        "soon",
    ),
    "a sequence on a one-shot model": (
        fakes.floats("same", [[1]], sequence_id=7),
        "parameters.sequence_id",
        "step-wise",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_an_invalid_tensor_is_rejected_and_named(server: Served, case: str) -> None:
    request, field, words = TENSORS[case]
    with refused(INVALID, field, words):
        server.infer(request)


@pytest.mark.parametrize("case", TENSORS)
def test_an_invalid_tensor_fails_its_request_and_the_stream_continues(server: Served, case: str) -> None:
    request, field, words = TENSORS[case]
    replies = list(
        server.inference.ModelStreamInfer(
            iter([request, fakes.floats("same", [[5]], request_id="good")]), timeout=PATIENCE_S
        )
    )
    by_id = {reply.infer_response.id: reply for reply in replies}
    assert len(by_id) == len(replies) == 2
    assert field in by_id[""].error_message
    assert words in by_id[""].error_message
    assert not by_id["good"].error_message
    assert fakes.values(by_id["good"].infer_response, "y").item() == 5


@pytest.mark.parametrize(("value", "datatype"), [(128, "INT8"), (2**15, "INT16"), (-(2**15) - 1, "INT16")])
def test_a_typed_value_outside_its_datatype_is_rejected(
    serving: Any, tmp_path: Any, value: int, datatype: str
) -> None:
    fakes.write_model(tmp_path, "small", fakes.identity(datatype))
    with refused(INVALID, "x", "cannot hold"):
        serving().infer(typed("small", "int_contents", [value], datatype, [1, 1]))


@pytest.mark.parametrize("name", ["nobody", "", "../same", "same/1", "a" * 5000])
def test_an_unknown_model_is_not_found(server: Served, name: str) -> None:
    with refused(NOT_FOUND, words="model"):
        server.infer(message(name))


def test_not_found_errors_name_the_resource(server: Served) -> None:
    from google.rpc import error_details_pb2
    from integration.harness import details

    with refused(NOT_FOUND, words="unknown model 'nobody'") as caught:
        server.infer(message("nobody"))
    (resource,) = details(caught.value)
    assert isinstance(resource, error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("model", "nobody")


@pytest.mark.parametrize("version", ["2", "0", "99999999999999999999"])
def test_an_unknown_version_is_not_found(server: Served, version: str) -> None:
    request = message()
    request.model_version = version
    with refused(NOT_FOUND, words="has no version"):
        server.infer(request)


@pytest.mark.parametrize("version", ["latest", "-1", "1.0", "²", " 1"])
def test_a_version_that_is_not_an_integer_is_rejected(server: Served, version: str) -> None:
    request = message()
    request.model_version = version
    with refused(INVALID, "version", "integer"):
        server.infer(request)


def test_a_version_of_many_digits_is_a_client_error(server: Served) -> None:
    request = message()
    request.model_version = "9" * 5000
    with refused(NOT_FOUND, words="has no version"):
        server.infer(request)


def test_the_error_for_a_huge_message_names_the_limit(server: Served) -> None:
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words="larger than max"):
        server.infer(fakes.floats("same", np.zeros((1, 300_000))))
    assert fakes.values(server.infer(fakes.floats("same", [[3]])), "y").item() == 3


def test_bytes_that_are_not_a_message_are_rejected(server: Served) -> None:
    call: Any = server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=PATIENCE_S)
    assert caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    assert fakes.values(server.infer(fakes.floats("same", [[3]])), "y").item() == 3


SEQUENCES: dict[str, tuple[Any, str, str]] = {
    "no texts": (spb.ClassifyRequest(model="text"), "texts", "neither texts nor ids"),
    "texts and ids": (
        spb.ClassifyRequest(model="text", texts=["good"], ids=[spb.Ids(ids=[1])]),
        "texts",
        "one of them",
    ),
    "an empty text": (spb.ClassifyRequest(model="text", texts=["good", ""]), "texts[1]", "empty"),
    "a text of spaces": (spb.ClassifyRequest(model="text", texts=[" \t"]), "texts[0]", "empty"),
    "an over-long text": (
        spb.ClassifyRequest(model="text", texts=["good", "bad " * 9]),
        "texts[1]",
        "limit of 8",
    ),
    "no ids": (spb.ClassifyRequest(model="text", ids=[spb.Ids(ids=[1]), spb.Ids()]), "ids[1]", "empty"),
    "an id below the range": (spb.ClassifyRequest(model="text", ids=[spb.Ids(ids=[-1])]), "ids[0]", "id -1"),
    "an id above the range": (spb.ClassifyRequest(model="text", ids=[spb.Ids(ids=[6])]), "ids[0]", "id 6"),
    "too many ids": (spb.ClassifyRequest(model="text", ids=[spb.Ids(ids=[1] * 9)]), "ids[0]", "limit of 8"),
    "too many texts": (spb.ClassifyRequest(model="text", texts=["good"] * 4097), "texts", "at most 4096"),
    "a negative timeout": (
        spb.ClassifyRequest(model="text", texts=["good"], queue_timeout_seconds=-1),
        "queue_timeout_seconds",
        "-1",
    ),
    "an endless timeout": (
        spb.ClassifyRequest(model="text", texts=["good"], queue_timeout_seconds=float("nan")),
        "queue_timeout_seconds",
        "nan",
    ),
    "a model without labels": (spb.ClassifyRequest(model="same", texts=["good"]), "model", "roles.scores"),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_an_invalid_text_is_rejected_and_named(server: Served, case: str) -> None:
    request, field, words = SEQUENCES[case]
    with refused(INVALID, field, words):
        server.sequences.Classify(request, timeout=PATIENCE_S)
    server.wait_idle()


def test_encode_needs_a_model_with_a_vector(server: Served) -> None:
    with refused(INVALID, "model", "roles.vector"):
        server.sequences.Encode(spb.EncodeRequest(model="text", texts=["good"]), timeout=PATIENCE_S)


def test_classify_with_an_unknown_model_is_not_found(server: Served) -> None:
    with refused(NOT_FOUND):
        server.sequences.Classify(spb.ClassifyRequest(model="nobody", texts=["good"]), timeout=PATIENCE_S)


def test_invalid_requests_do_not_affect_waiting_ones(server: Served) -> None:
    """While valid requests wait, every invalid one is rejected; then the valid ones run as one batch."""
    with server.hold():
        good = [server.inference.ModelInfer.future(fakes.floats("same", [[i]])) for i in range(4)]
        server.wait_waiting("same", 4)
        for request, field, _ in TENSORS.values():
            with pytest.raises(grpc.RpcError) as caught:
                server.infer(request)
            assert fields(caught.value) == [field]
        assert server.waiting("same") == 4
    for i, call in enumerate(good):
        assert fakes.values(call.result(), "y").item() == i
        assert call.result().parameters["batch_rows"].double_param == 4
    server.wait_idle()


def test_a_too_long_text_does_not_affect_other_requests(server: Served) -> None:
    with server.hold():
        good = server.sequences.Classify.future(spb.ClassifyRequest(model="text", texts=["good film"]))
        server.wait_waiting("text", 1)
        with refused(INVALID, "texts[0]"):
            server.sequences.Classify(
                spb.ClassifyRequest(model="text", texts=["bad " * 9]), timeout=PATIENCE_S
            )
    assert good.result().results[0].length == 2
