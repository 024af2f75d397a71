"""A correct pair of graphs passes; one that attends to padding or has other weights is rejected."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from unit.zoo.sample_data import TRANSLATOR, VOCABULARY, as_built, built, translation

from lockstep_export.errors import ParityError
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Parity
from lockstep_zoo.models.translator import Encoded, Translator, Written
from lockstep_zoo.translate.greedy import Exported, translate
from lockstep_zoo.translate.parity import PREFILL, STEP, check, sample_sentences
from lockstep_zoo.translate.tokenizer import END_ID

SIZES = (VOCABULARY, VOCABULARY)
TEXTS = [[5, 6, 7], [8, 9], [10] * 9]


def graphs(folder: Path) -> Exported:
    exported = as_built(TRANSLATOR, folder)
    return Exported(exported[PREFILL], exported[STEP])


def test_sources_steps_and_whole_translations_are_equal(tmp_path: Path) -> None:
    differences = check(translation(), SIZES, graphs(tmp_path), built(TRANSLATOR), TEXTS)
    Parity(TRANSLATOR, differences).require()
    assert {gap.comparison for gap in differences} == {
        "prefill",
        "step",
        "padding",
        "rows",
        "length",
        "greedy",
    }
    assert {gap.output for gap in differences if gap.comparison == "step"} == {
        "logits",
        "attention",
        "h_out",
        "c_out",
    }


def test_rejects_attention_on_padding(tmp_path: Path) -> None:
    graphs(tmp_path)
    model = onnx.load(tmp_path / STEP)
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant).astype(np.float32)
        if values.min(initial=0.0) == -1e9:
            zero = values * 0
            constant.CopyFrom(numpy_helper.from_array(zero, constant.name))
    onnx.save(model, tmp_path / STEP)
    leaky = Exported(OnnxGraph(tmp_path / PREFILL), OnnxGraph(tmp_path / STEP))
    differences = check(translation(), SIZES, leaky)
    assert "padding" in {gap.comparison for gap in differences if not gap.within}


def test_rejects_a_step_of_other_weights(tmp_path: Path) -> None:
    other = Translator(*SIZES).eval()
    with pytest.raises(ParityError, match=r"step +logits"):
        Parity(TRANSLATOR, check(translation(), SIZES, graphs(tmp_path), other)).require()


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


def test_sample_sentences_are_distinct() -> None:
    assert len(set(sample_sentences())) == 36
