"""A correct pair of graphs passes; one that attends to padding or has other weights is rejected."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from unit.zoo.sample_data import (
    TRANSLATOR,
    VOCABULARY,
    compared,
    compared_with_new_weights,
    graphs_of,
    quick_pipeline,
)

from lockstep_export.errors import ParityError
from lockstep_export.forms import PREFILL
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Difference, Parity
from lockstep_export.step_module import STEP
from lockstep_zoo.models.translator import Encoded, Translator, Written
from lockstep_zoo.translate.greedy import Exported, translate
from lockstep_zoo.translate.tokenizer import END_ID

TEXTS = [[5, 6, 7], [8, 9], [10] * 9]


def rejected(differences: list[Difference]) -> set[tuple[str, str]]:
    """The comparison and output of each difference that is too large."""
    return {(gap.comparison, gap.output) for gap in differences if not gap.within}


def test_sources_and_steps_are_equal() -> None:
    differences = quick_pipeline().check(TRANSLATOR).differences
    assert {gap.comparison for gap in differences} == {"batched", "padded", "as PyTorch", "rows", "length"}
    assert {gap.output for gap in differences if gap.comparison == "length"} == {
        "logits",
        "attention",
        "h_out",
        "c_out",
    }
    assert all(gap.largest == 0.0 for gap in differences if gap.comparison in ("rows", "length"))


def test_whole_translations_are_equal() -> None:
    graphs, module = graphs_of(TRANSLATOR), quick_pipeline().trained(TRANSLATOR)
    assert isinstance(module, Translator)
    texts = [*TEXTS, *[[4 + (7 * i + j) % 40 for j in range(1 + i % 12)] for i in range(36)]]
    found = translate(Exported(graphs[PREFILL], graphs[STEP]), texts, 60)
    assert found == translate(module, texts, 60)


def test_rejects_attention_on_padding(tmp_path: Path) -> None:
    graphs = graphs_of(TRANSLATOR, tmp_path)
    model = onnx.load(tmp_path / STEP)
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant).astype(np.float32)
        if values.min(initial=0.0) == -1e9:
            zero = values * 0
            constant.CopyFrom(numpy_helper.from_array(zero, constant.name))
    onnx.save(model, tmp_path / STEP)
    leaky = {**graphs, STEP: OnnxGraph(tmp_path / STEP)}
    assert {("padded", "attention"), ("padded", "logits")} <= rejected(compared(TRANSLATOR, leaky))


def test_rejects_a_step_of_other_weights() -> None:
    assert ("batched", "logits") in rejected(compared_with_new_weights(TRANSLATOR))


class Scripted:
    """Repeats each source's first id, as many times as the source is long, then ends."""

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        rows = torch.zeros(1, len(source), 1)
        return source[:, :1], lengths, rows, rows

    def step(
        self, token: Tensor, h: Tensor, c: Tensor, keys: Tensor, memory: Tensor, mask: Tensor
    ) -> Written:
        chosen = torch.where(h[0, :, 0] < memory, keys[:, 0], END_ID)
        return torch.nn.functional.one_hot(chosen, VOCABULARY).float(), mask, h + 1, c


def test_greedy_ends_each_row_separately() -> None:
    rows = [[7] * 3, [9], [8] * 12]
    assert translate(Scripted(), rows, 10) == [[7] * 3, [9], [8] * 10]


def test_a_prefill_with_a_frozen_axis_is_reported_as_a_failed_run(tmp_path: Path) -> None:
    graphs, right = graphs_of(TRANSLATOR, tmp_path), graphs_of(TRANSLATOR)
    model = onnx.load(tmp_path / PREFILL)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, tmp_path / PREFILL)
    frozen = {**graphs, PREFILL: OnnxGraph(tmp_path / PREFILL)}
    with pytest.raises(ParityError, match=r"run +any .* DIFFERS .*dimensions"):
        Parity(TRANSLATOR, compared(TRANSLATOR, frozen, right)).require()
