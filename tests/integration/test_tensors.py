"""Tensors of every datatype and shape are returned unchanged by a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import onnx
import pytest
from integration.harness import Served, refused, serve
from onnx import helper
from patience import PATIENCE_S

from lockstep_proto import open_inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAMPLES: dict[str, list[list[Any]]] = {
    "BOOL": [[True, False, True]],
    "UINT8": [[0, 7, 255]],
    "UINT16": [[0, 7, 2**16 - 1]],
    "UINT32": [[0, 7, 2**32 - 1]],
    "UINT64": [[0, 7, 2**64 - 1]],
    "INT8": [[-128, 0, 127]],
    "INT16": [[-(2**15), 0, 2**15 - 1]],
    "INT32": [[-(2**31), 0, 2**31 - 1]],
    "INT64": [[-(2**63), 0, 2**63 - 1]],
    "FP16": [[-1.5, 0, np.inf]],
    "BF16": [[-1.5, 0, 256]],
    "FP32": [[-1.5, 0, 1e30]],
    "FP64": [[-1.5, 0, 1e300]],
    "BYTES": [["", "naïve ☃", "two words"]],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    for datatype in SAMPLES:
        fakes.write_model(root, f"same-{datatype}", fakes.identity(datatype))
        fakes.write_model(root, f"scalar-{datatype}", fakes.identity(datatype, ()))
    fakes.write_model(root, "optional", fakes.with_optional())
    fakes.write_model(root, "several", fakes.several_outputs())
    fakes.write_model(
        root,
        "rate",
        fakes.with_rate(),
        "inputs.rate.value = 3\ninputs.x.batch_axis = 0\noutputs.y.batch_axis = 0",
    )
    with serve(root) as running:
        yield running


def same(reply: Any, datatype: str, sent: Any) -> None:
    array = np.asarray(sent, object if datatype == "BYTES" else fakes.NUMPY[datatype])
    got = fakes.values(reply, "y")
    assert reply.outputs[0].datatype == datatype
    assert got.shape == array.shape
    assert got.dtype == array.dtype
    assert np.array_equal(got, array)


@pytest.mark.parametrize("datatype", SAMPLES)
def test_raw_contents_are_returned_unchanged(server: Served, datatype: str) -> None:
    sent = SAMPLES[datatype]
    same(server.infer(fakes.request(f"same-{datatype}", {"x": (datatype, sent)})), datatype, sent)


@pytest.mark.parametrize("datatype", fakes.TYPED)
def test_typed_contents_are_returned_as_raw_contents(server: Served, datatype: str) -> None:
    sent = SAMPLES[datatype]
    same(server.infer(fakes.request(f"same-{datatype}", {"x": (datatype, sent)}, typed=True)), datatype, sent)


@pytest.mark.parametrize("datatype", SAMPLES)
def test_a_scalar_is_returned_unchanged(server: Served, datatype: str) -> None:
    sent = np.asarray(SAMPLES[datatype], object if datatype == "BYTES" else fakes.NUMPY[datatype])[0, 1]
    same(server.infer(fakes.request(f"scalar-{datatype}", {"x": (datatype, sent)})), datatype, sent)


@pytest.mark.parametrize("datatype", SAMPLES)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_an_empty_tensor_is_returned_unchanged(server: Served, datatype: str, shape: tuple[int, int]) -> None:
    sent = np.empty(shape, object if datatype == "BYTES" else fakes.NUMPY[datatype])
    same(server.infer(fakes.request(f"same-{datatype}", {"x": (datatype, sent)})), datatype, sent)


def test_strings_keep_every_character(server: Served) -> None:
    sent = [["a\x00b", "\x00", "a\x00"]]
    same(server.infer(fakes.request("same-BYTES", {"x": ("BYTES", sent)})), "BYTES", sent)


def test_an_optional_input_can_be_omitted(server: Served) -> None:
    reply = server.infer(fakes.floats("optional", [1, 2]))
    assert fakes.values(reply, "y").tolist() == [11, 12]


def test_an_optional_input_can_be_sent(server: Served) -> None:
    request = fakes.request("optional", {"x": ("FP32", [1, 2]), "bias": ("FP32", [0.5])})
    assert fakes.values(server.infer(request), "y").tolist() == [1.5, 2.5]


def test_a_constant_input_can_be_omitted_sent_and_is_not_listed(server: Served) -> None:
    assert fakes.values(server.infer(fakes.floats("rate", [[1, 2]])), "y").tolist() == [[3, 6]]
    request = fakes.request("rate", {"x": ("FP32", [[1, 2]]), "rate": ("INT64", 5)})
    assert fakes.values(server.infer(request), "y").tolist() == [[5, 10]]
    metadata = server.inference.ModelMetadata(pb.ModelMetadataRequest(name="rate"))
    assert [tensor.name for tensor in metadata.inputs] == ["x"]


def test_requests_without_and_with_the_constant_get_their_own_answers(server: Served) -> None:
    with server.hold():
        requests = [fakes.floats("rate", [[k, 2 * k]]) for k in range(6)]
        requests += [fakes.request("rate", {"x": ("FP32", [[k, k]]), "rate": ("INT64", 5)}) for k in range(2)]
        calls = [server.inference.ModelInfer.future(request, timeout=PATIENCE_S) for request in requests]
        server.wait_waiting("rate", len(calls))
    replies = [call.result() for call in calls]
    answers = [fakes.values(reply, "y").tolist() for reply in replies]
    assert answers == [[[3 * k, 6 * k]] for k in range(6)] + [[[5 * k, 5 * k]] for k in range(2)]
    assert replies[0].parameters["batch_rows"].double_param == 6


def test_outputs_are_in_the_order_of_the_graph(server: Served) -> None:
    reply = server.infer(fakes.floats("several", [[-3]]))
    assert [output.name for output in reply.outputs] == ["same", "negative", "size"]
    assert [fakes.values(reply, name).item() for name in ("same", "negative", "size")] == [-3, 3, 3]


def test_only_requested_outputs_are_returned(server: Served) -> None:
    reply = server.infer(fakes.floats("several", [[-3]], outputs=["size"]))
    assert [output.name for output in reply.outputs] == ["size"]
    assert fakes.values(reply, "size").item() == 3


def test_requests_in_one_batch_get_the_outputs_that_each_requested(server: Served) -> None:
    with server.hold():
        request = [
            server.inference.ModelInfer.future(fakes.floats("several", [[-i]], outputs=[name]))
            for i, name in enumerate(("same", "negative", "size"))
        ]
        server.wait_waiting("several", 3)
    replies = [one.result() for one in request]
    assert [[o.name for o in reply.outputs] for reply in replies] == [["same"], ["negative"], ["size"]]
    assert fakes.values(replies[1], "negative").item() == 1
    assert replies[0].parameters["batch_rows"].double_param == 3


def test_the_request_id_is_returned(server: Served) -> None:
    assert server.infer(fakes.floats("same-FP32", [[1]], request_id="one")).id == "one"


def test_a_reply_names_the_model_and_version(server: Served) -> None:
    reply = server.infer(fakes.floats("same-FP32", [[1]]))
    assert (reply.model_name, reply.model_version) == ("same-FP32", "1")
    assert reply.parameters["compute_seconds"].double_param > 0


def test_a_callers_own_parameters_are_accepted(server: Served) -> None:
    request = fakes.floats("same-FP32", [[1]], triton_enable_empty_final_response=True, mine="yes", n=1.5)
    assert fakes.values(server.infer(request), "y").item() == 1


def test_a_parameter_of_triton_that_is_not_supported_is_refused_by_name(server: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "parameters.triton_new"):
        server.infer(fakes.floats("same-FP32", [[1]], triton_new=True))


@pytest.mark.parametrize("no_sequence", [0, "", "0"])
def test_sequence_id_zero_means_no_sequence(server: Served, no_sequence: Any) -> None:
    request = fakes.floats("same-FP32", [[1]], sequence_id=no_sequence, sequence_start=False)
    assert fakes.values(server.infer(request), "y").item() == 1


def test_a_graph_in_a_folder_with_its_weights_is_served(tmp_path: Path) -> None:
    """Triton's form for models of more than 2 GB."""
    x, y = fakes.tensor("x"), fakes.tensor("y")
    weights = fakes.constant("w", np.eye(2) * 3, np.float32)
    model = fakes.model([helper.make_node("MatMul", ["x", "w"], ["y"])], [x], [y], [weights])
    for name in ("big", "empty"):
        (tmp_path / name / "1" / "model.onnx").mkdir(parents=True)
    file = tmp_path / "big" / "1" / "model.onnx" / "model.onnx"
    onnx.save_model(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with serve(tmp_path) as server:
        assert fakes.values(server.infer(fakes.floats("big", [[1, 2]])), "y").tolist() == [[3, 6]]
        index = server.inference.RepositoryIndex(pb.RepositoryIndexRequest())
        (reason,) = [model.reason for model in index.models if model.name == "empty"]
        assert "a folder without model.onnx" in reason
