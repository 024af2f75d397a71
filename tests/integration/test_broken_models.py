"""A model that is broken on disk is not served, with a reason in the index; the others are served."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import Served, refused, serve
from integration.test_bad_input import TEXT_MANIFEST, classifier
from onnx import external_data_helper, helper
from patience import PATIENCE_S

from lockstep_proto import open_inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKEN: dict[str, list[str]] = {
    # what is broken: words of the reason, file and key first
    "toml": ["toml/model.toml", "not valid TOML", "line 2"],
    "unknown-key": ["unknown-key/model.toml", "batching.max_row", "did you mean 'max_rows'"],
    "wrong-kind": ["wrong-kind/model.toml", "batching.max_rows", "whole number"],
    "no-such-input": ["no-such-input/model.toml", "inputs.z", "available: x"],
    "no-labels": ["no-labels/model.toml", "labels", "list the labels"],
    "no-such-version": ["no-such-version/model.toml", "default_version", "no version 3"],
    "not-onnx": ["not-onnx/1/model.onnx", "cannot load"],
    "empty-onnx": ["empty-onnx/1/model.onnx", "is empty"],
    "half-onnx": ["half-onnx/1/model.onnx", "damaged, incomplete"],
    "lfs-pointer": ["lfs-pointer/1/model.onnx", "git lfs pull"],
    "new-opset": ["new-opset/1/model.onnx", "its opset 99 is newer", "a newer onnxruntime"],
    "new-ir": ["new-ir/1/model.onnx", "its IR version 99 is newer", "a newer onnxruntime"],
    "own-operator": ["own-operator/1/model.onnx", "operator Unheard"],
    "no-weights": ["no-weights/1/model.onnx", "weights in weights.bin, which does not exist"],
    "half-weights": ["half-weights/1/model.onnx", "weights are in weights.bin, which is incomplete"],
    "lfs-weights": ["lfs-weights/1/model.onnx", "weights.bin", "git lfs pull"],
    "no-onnx": ["no-onnx/1/model.onnx", "does not exist"],
    "no-tokenizer": ["no-tokenizer/model.toml", "text.source", "does not exist"],
    "not-a-tokenizer": ["not-a-tokenizer/tokenizer.json", "not a Hugging Face tokenizer"],
    "tokenizer-folder": ["tokenizer-folder", "text.source"],
    "other-tokenizer": ["other-tokenizer/model.toml", "text.source", "16 ids"],
    "sequence": ["sequence", "outputs.y", "not supported"],
    "link-graph": ["link-graph/1/model.onnx", "outside of the model repository"],
    "link-manifest": ["link-manifest/model.toml", "outside of the model repository"],
    "tokenizer-outside": ["outside of the model repository"],
}


GOOD = ["a-good-one", "z-good-one"]
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"


def with_external_weights(file: str) -> Any:
    """y = x + 4 weights, which are in another file."""
    weights = fakes.constant("weights", np.arange(4), np.float32)
    external_data_helper.set_external_data(weights, file, length=16)
    weights.ClearField("raw_data")
    return fakes.model(
        [helper.make_node("Add", ["x", "weights"], ["y"])],
        [fakes.tensor("x", shape=(4,))], [fakes.tensor("y", shape=(4,))], [weights],
    )  # fmt: skip


def write(root: Path, outside: Path) -> None:
    fakes.write_model(root, "toml", fakes.identity(), "task = 'tensor'\ntask ? 1")
    fakes.write_model(root, "unknown-key", fakes.identity(), "[batching]\nmax_row = 3")
    fakes.write_model(root, "wrong-kind", fakes.identity(), "[batching]\nmax_rows = 'many'")
    fakes.write_model(root, "no-such-input", fakes.identity(), "[inputs.z]\nbatch_axis = 0")
    fakes.write_model(root, "no-labels", classifier(), TEXT_MANIFEST.replace("labels =", "#"))
    fakes.write_model(root, "no-such-version", fakes.identity(), "default_version = 3")
    fakes.write_model(root, "not-onnx", b"this is no graph")
    fakes.write_model(root, "empty-onnx", b"")
    fakes.write_model(root, "half-onnx", fakes.with_optional().SerializeToString()[:-9])
    fakes.write_model(root, "lfs-pointer", LFS_POINTER)
    new_opset, new_ir, own_operator = fakes.identity(), fakes.identity(), fakes.identity()
    new_opset.opset_import[0].version = new_ir.ir_version = 99
    own_operator.graph.node[0].op_type = "Unheard"
    fakes.write_model(root, "new-opset", new_opset)
    fakes.write_model(root, "new-ir", new_ir)
    fakes.write_model(root, "own-operator", own_operator)
    for name, weights in (("no-weights", None), ("half-weights", b"1234"), ("lfs-weights", LFS_POINTER)):
        folder = fakes.write_model(root, name, with_external_weights("weights.bin"))
        if weights is not None:
            (folder / "1/weights.bin").write_bytes(weights)
    (root / "no-onnx" / "1").mkdir(parents=True)
    fakes.write_model(root, "no-tokenizer", classifier(), TEXT_MANIFEST)
    folder = fakes.write_model(root, "not-a-tokenizer", classifier(), TEXT_MANIFEST)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    folder = fakes.write_model(root, "tokenizer-folder", classifier(), TEXT_MANIFEST)
    (folder / "tokenizer.json").mkdir()
    folder = fakes.write_model(root, "other-tokenizer", classifier(), TEXT_MANIFEST)
    fakes.write_tokenizer(folder / "tokenizer.json", [f"word{i}" for i in range(14)])
    fakes.write_model(root, "sequence", fakes.sequence_output())
    (outside / "model.onnx").write_bytes(fakes.identity().SerializeToString())
    (outside / "model.toml").write_text("", encoding="utf-8")
    fakes.write_tokenizer(outside / "tokenizer.json")
    (root / "link-graph" / "1").mkdir(parents=True)
    os.symlink(outside / "model.onnx", root / "link-graph" / "1" / "model.onnx")
    fakes.write_model(root, "link-manifest", fakes.identity())
    os.symlink(outside / "model.toml", root / "link-manifest" / "model.toml")
    up = os.path.relpath(outside / "tokenizer.json", root / "tokenizer-outside")
    fakes.write_model(root, "tokenizer-outside", classifier(), TEXT_MANIFEST.replace("tokenizer.json", up))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    write(root, tmp_path_factory.mktemp("outside"))
    fakes.write_model(root, "a-good-one", fakes.identity())
    fakes.write_model(root, "z-good-one", fakes.identity())
    (root / "empty").mkdir()
    (root / "README.md").write_text("no model", encoding="utf-8")
    with serve(root) as running:
        yield running


def index(server: Served) -> dict[str, Any]:
    reply = server.inference.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=PATIENCE_S)
    return {one.name: one for one in reply.models}


@pytest.mark.parametrize("name", BROKEN)
def test_the_repository_index_gives_the_reason(server: Served, name: str) -> None:
    one = index(server)[name]
    assert (one.version, one.state) == ("1", "UNAVAILABLE")
    for words in BROKEN[name]:
        assert words in one.reason


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_not_served(server: Served, name: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, words="is not served"):
        server.infer(fakes.floats(name, [[1]]))
    assert not server.inference.ModelReady(pb.ModelReadyRequest(name=name)).ready
    assert not server.serving(name)


@pytest.mark.parametrize("name", BROKEN)
def test_callers_get_the_reason_without_the_place_of_the_repository(server: Served, name: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND) as caught:
        server.infer(fakes.floats(name, [[1]]))
    message = caught.value.details()
    root = server.app.settings.models
    assert root not in message
    assert "ONNXRuntimeError" not in message
    assert BROKEN[name][-1] in message


@pytest.mark.parametrize("name", ["a-good-one", "z-good-one"])
def test_the_other_models_are_served(server: Served, name: str) -> None:
    assert fakes.values(server.infer(fakes.floats(name, [[1]])), "y").item() == 1
    assert index(server)[name].state == "READY"
    assert server.serving(name)


def test_the_server_is_ready_and_lists_every_model(server: Served) -> None:
    assert server.inference.ServerReady(pb.ServerReadyRequest()).ready
    assert set(index(server)) == {*BROKEN, *GOOD}


def test_a_folder_without_a_version_is_logged(
    serving: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.write_model(tmp_path, "same", fakes.identity())
    (tmp_path / "empty").mkdir()
    serving(tmp_path)
    assert f"{tmp_path / 'empty'} holds no model version" in caplog.text


@pytest.mark.parametrize("role", ["scores", "vector", "attention"])
def test_a_role_without_an_output_is_a_load_error(serving: Any, tmp_path: Path, role: str) -> None:
    manifest = steps.adder(tmp_path).parent / "model.toml"
    manifest.write_text(f'[roles]\n{role} = "nothing"\n' + manifest.read_text())
    one = index(serving(tmp_path))["adder"]
    assert one.state == "UNAVAILABLE"
    assert f"roles.{role}: the step graph has no output 'nothing'; available: y" in one.reason


def test_the_index_can_list_ready_models_only(server: Served) -> None:
    reply = server.inference.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    assert [one.name for one in reply.models] == GOOD


def test_the_ready_metric_is_set_for_ready_models_only(server: Served) -> None:
    assert server.metric("lockstep_model_ready", model="a-good-one") == 1
    assert server.metric("lockstep_model_ready", model="toml") == 0


def test_external_data_outside_the_repository_is_not_read(serving: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    fakes.write_model(tmp_path / "models", "thief", with_external_weights("../../../secret.bin"))
    server = serving(tmp_path / "models")
    assert index(server)["thief"].state == "UNAVAILABLE"
