"""docs/moving: each translated configuration is served, and answers as the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from fakes import model, tensor
from integration.harness import Served, serve
from onnx import helper
from patience import PATIENCE_S

from lockstep_client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
STOCK = ROOT / "tests" / "stock"
SIZES = {"[0, 30522]": "[0, 64]", "max = 512": "max = 64"}
"""Vocabulary and positions of the pages' models, and of the graphs that stand in for them."""
GRAPHS = {"reviews": "bert-classifier", "minilm": "sentence-encoder"}


def _translated() -> dict[str, str]:
    """The manifests of the pages, by page and model."""
    found = {}
    for page in sorted((ROOT / "docs" / "moving").glob("*.md")):
        for text in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            first = re.match(r"# (\w+)/model\.toml\n", text)
            assert first, f"{page.name}: the block does not begin with # NAME/model.toml"
            for theirs, ours in SIZES.items():
                text = text.replace(theirs, ours)
            found[f"{page.stem}-{first[1]}"] = text
    return found


MANIFESTS = _translated()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    for name, text in MANIFESTS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "model.toml").write_text(text, encoding="utf-8")
        stock = GRAPHS.get(name.partition("-")[2])
        if stock is None:
            onnx.save(_controller(), root / name / "1" / "step.onnx")
        else:
            shutil.copy(STOCK / stock / "model.onnx", root / name / "1")
            shutil.copy(STOCK / stock / "tokenizer.json", root / name)
    with serve(root) as one:
        yield one


def _controller() -> onnx.ModelProto:
    """h = h + x, and y = h."""
    nodes = [
        helper.make_node("Add", ["h_in", "x"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["y"]),
    ]
    shape = ("n", 4)
    inputs = [tensor("x", shape=shape), tensor("h_in", shape=shape)]
    return model(nodes, inputs, [tensor("y", shape=shape), tensor("h_out", shape=shape)])


def test_every_server_has_a_page_with_a_configuration() -> None:
    assert {name.partition("-")[0] for name in MANIFESTS} == {"triton", "tei", "mosec", "torchserve"}


def test_every_translated_configuration_is_served_batched_and_answers(server: Served) -> None:
    with Client(server.address, timeout_s=PATIENCE_S) as client:
        for name in MANIFESTS:
            if name.endswith("controller"):
                continue
            if name.endswith("minilm"):
                vectors = [one.vector for one in client.encode(name, ["the dog", "men"])]
                assert [round(float(np.linalg.norm(one)), 4) for one in vectors] == [1.0, 1.0]
            else:
                answers = client.classify(name, ["the dog", "men bite dogs"])
                assert {one.best.name for one in answers} <= {"negative", "neutral", "positive"}
        forms = {form.name: form for form in client.describe()}
    assert set(forms) == set(MANIFESTS)
    assert [form.notice for form in forms.values()] == [""] * len(forms)
    assert forms["triton-reviews"].max_rows == forms["mosec-reviews"].max_rows == 32
    assert forms["torchserve-reviews"].max_rows == 16
    assert forms["triton-controller"].max_sequences == 8


def test_clients_of_triton_go_on_with_tensors_and_sequences(server: Served) -> None:
    """With the requests that they send: tests/integration/test_tritonclient.py runs tritonclient itself."""
    ids = np.array([[3, 5, 7]], np.int64)
    with Client(server.address, timeout_s=PATIENCE_S) as client:
        short = client.infer("triton-reviews", {"input_ids": ids})
        whole = client.infer("triton-reviews", {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        np.testing.assert_allclose(short["logits"], whole["logits"], atol=1e-5)
        for index in range(3):
            answer = client.infer(
                "triton-controller",
                {"x": np.ones((1, 4), np.float32)},
                sequence_id=5,
                sequence_start=index == 0,
                sequence_end=index == 2,
            )
            assert answer["y"].tolist() == [[index + 1.0] * 4]
