"""A correct pair of graphs passes; one that attends to padding or has other weights is rejected."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from unit.zoo.sample_data import TRANSLATOR, VOCABULARY, as_built, built, compared, translation

from lockstep_export.errors import ParityError
from lockstep_export.forms import PREFILL
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Parity
from lockstep_export.step_module import STEP
from lockstep_zoo.models.translator import Encoded, Translator, Written
from lockstep_zoo.translate.greedy import Exported, translate
from lockstep_zoo.translate.tokenizer import END_ID

TEXTS = [[5, 6, 7], [8, 9], [10] * 9]


def test_sources_and_steps_are_equal(tmp_path: Path) -> None:
    differences = compared(translation(), built(TRANSLATOR), as_built(TRANSLATOR, tmp_path))
    Parity(TRANSLATOR, differences).require()
    assert {gap.comparison for gap in differences} == {"batched", "padded", "as PyTorch", "rows", "length"}
    assert {gap.output for gap in differences if gap.comparison == "length"} == {
        "logits",
        "attention",
        "h_out",
        "c_out",
    }
    assert all(gap.largest == 0.0 for gap in differences if gap.comparison in ("rows", "length"))


def test_whole_translations_are_equal(tmp_path: Path) -> None:
    graphs, module = as_built(TRANSLATOR, tmp_path), built(TRANSLATOR)
    assert isinstance(module, Translator)
    texts = [*TEXTS, *[[4 + (7 * i + j) % 50 for j in range(1 + i % 12)] for i in range(36)]]
    found = translate(Exported(graphs[PREFILL], graphs[STEP]), texts, 60)
    assert found == translate(module, texts, 60)


def test_rejects_attention_on_padding(tmp_path: Path) -> None:
    graphs = as_built(TRANSLATOR, tmp_path)
    model = onnx.load(tmp_path / STEP)
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant).astype(np.float32)
        if values.min(initial=0.0) == -1e9:
            zero = values * 0
            constant.CopyFrom(numpy_helper.from_array(zero, constant.name))
    onnx.save(model, tmp_path / STEP)
    leaky = {**graphs, STEP: OnnxGraph(tmp_path / STEP)}
    with pytest.raises(ParityError, match=r"padded +logits"):
        Parity(TRANSLATOR, compared(translation(), built(TRANSLATOR), leaky, with_module=False)).require()


def test_rejects_a_step_of_other_weights(tmp_path: Path) -> None:
    other = Translator(VOCABULARY, VOCABULARY).eval()
    with pytest.raises(ParityError, match=r"batched +logits"):
        Parity(TRANSLATOR, compared(translation(), other, as_built(TRANSLATOR, tmp_path))).require()


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
    graphs = as_built(TRANSLATOR, tmp_path)
    model = onnx.load(tmp_path / PREFILL)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, tmp_path / PREFILL)
    frozen = {**graphs, PREFILL: OnnxGraph(tmp_path / PREFILL)}
    with pytest.raises(ParityError, match=r"run +any .* DIFFERS .*dimensions"):
        Parity(TRANSLATOR, compared(translation(), built(TRANSLATOR), frozen)).require()
