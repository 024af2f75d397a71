"""A correct pair of graphs passes; one that depends on padding, other rows or the future is rejected."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from unit.zoo.sample_data import (
    SHAKESPEARE,
    VOCABULARY,
    WRITERS,
    as_built,
    built,
    exported,
    language_model,
    quick_pipeline,
    with_other_weights,
)

from lockstep_export.errors import ParityError
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Parity
from lockstep_zoo.language.parity import ONESHOT, PREFILL, STEP, check, check_oneshot, check_rows
from lockstep_zoo.models.context_cnn import ContextCNNOneShot
from lockstep_zoo.recipe import Outputs

CONTEXT = "captions-context-cnn"


@pytest.mark.parametrize("name", WRITERS)
def test_prompts_and_steps_are_equal(name: str) -> None:
    recipe, differences = language_model(name), quick_pipeline().check(name).differences
    expected = {"step", "rows"} | ({"prefill", "forced"} if recipe.prefill else set())
    assert {gap.comparison for gap in differences} >= expected
    assert all(gap.largest == 0.0 for gap in differences if gap.comparison == "rows")


def test_a_pair_of_graphs_with_random_weights_passes() -> None:
    recipe, graphs = language_model(), as_built(SHAKESPEARE)
    differences = check(recipe, VOCABULARY, graphs[PREFILL], graphs[STEP], built(SHAKESPEARE))
    Parity(SHAKESPEARE, differences).require()


def test_rejects_a_prefill_that_reads_the_padding(tmp_path: Path) -> None:
    recipe = language_model()
    graphs = as_built(recipe.name, tmp_path)
    model = onnx.load(tmp_path / PREFILL)
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""  # sequence_lens
    onnx.save(model, tmp_path / PREFILL)
    differences = check(recipe, VOCABULARY, OnnxGraph(tmp_path / PREFILL), graphs[STEP])
    with pytest.raises(ParityError, match=r"forced +h0"):
        Parity(recipe.name, differences).require()


def test_rejects_a_step_of_other_weights(tmp_path: Path) -> None:
    recipe, module = language_model(), built(SHAKESPEARE)
    prefill = as_built(SHAKESPEARE)[PREFILL]
    step = with_other_weights(SHAKESPEARE, tmp_path)[STEP]
    with pytest.raises(ParityError, match="rejected"):
        Parity(recipe.name, check(recipe, VOCABULARY, prefill, step, module)).require()


def test_rejects_rows_that_depend_on_other_rows(tmp_path: Path) -> None:
    recipe = language_model()
    as_built(SHAKESPEARE, tmp_path)
    model = onnx.load(tmp_path / STEP)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "own"
    mean = helper.make_node("ReduceMean", ["own"], ["mean"], keepdims=1)
    model.graph.node.extend([mean, helper.make_node("Sub", ["own", "mean"], ["logits"])])
    onnx.save(model, tmp_path / STEP)
    differences = check_rows(recipe, VOCABULARY, OnnxGraph(tmp_path / STEP))
    assert {(gap.output, gap.rows) for gap in differences if not gap.within} >= {("logits", 1)}


class LooksAhead(nn.Module):
    """Every position reads the word after it."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.honest = ContextCNNOneShot(trained)

    def forward(self, tokens: Tensor) -> Outputs:
        return self.honest(torch.cat((tokens[:, 1:], tokens[:, :1]), dim=1))


def test_all_positions_in_one_run_equal_the_steps() -> None:
    recipe = language_model(CONTEXT)
    graphs = as_built(CONTEXT)
    Parity(CONTEXT, check_oneshot(recipe, VOCABULARY, graphs[ONESHOT], graphs[STEP])).require()


def test_rejects_a_position_that_looks_ahead(tmp_path: Path) -> None:
    recipe = replace(language_model(CONTEXT), oneshot=LooksAhead)
    graphs = exported(recipe, built(CONTEXT), tmp_path)
    with pytest.raises(ParityError, match=r"one-shot +logits"):
        Parity(CONTEXT, check_oneshot(recipe, VOCABULARY, graphs[ONESHOT], graphs[STEP])).require()
