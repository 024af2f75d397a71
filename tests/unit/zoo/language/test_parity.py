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
    built,
    compared,
    exported_and_compared,
    forms,
    graphs_of,
    language_model,
    quick_pipeline,
    with_other_weights,
)

from lockstep_export.errors import ModuleError, ParityError
from lockstep_export.forms import PREFILL, check_forms
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Parity
from lockstep_export.step_module import STEP
from lockstep_zoo.models.context_cnn import ContextCNNOneShot
from lockstep_zoo.recipe import Outputs

CONTEXT = "captions-context-cnn"


@pytest.mark.parametrize("name", [SHAKESPEARE, "shakespeare-gpt", "captions-next-word", CONTEXT])
def test_prompts_and_steps_are_equal(name: str) -> None:
    """A writer with a prefill, one with caches, one without both and one with a one-shot form."""
    recipe, differences = language_model(name), quick_pipeline().check(name).differences
    whole = {"as PyTorch", "padded", "forced"} if recipe.prefill else set()
    positions = {"step"} if recipe.oneshot else set()
    exact = set() if recipe.caches else {"rows"}
    assert {gap.comparison for gap in differences} == {"batched"} | exact | whole | positions
    assert all(gap.largest == 0.0 for gap in differences if gap.comparison == "rows")


def test_rejects_a_prefill_that_reads_the_padding(tmp_path: Path) -> None:
    graphs = graphs_of(SHAKESPEARE, tmp_path)
    model = onnx.load(tmp_path / PREFILL)
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""  # sequence_lens
    onnx.save(model, tmp_path / PREFILL)
    leaky = {**graphs, PREFILL: OnnxGraph(tmp_path / PREFILL)}
    differences = compared(SHAKESPEARE, leaky)
    rejected = {(gap.comparison, gap.output) for gap in differences if not gap.within}
    assert rejected >= {("padded", "h0"), ("forced", "h0")}


def test_rejects_a_step_of_other_weights(tmp_path: Path) -> None:
    graphs, other = graphs_of(SHAKESPEARE), with_other_weights(SHAKESPEARE, tmp_path)
    with pytest.raises(ParityError, match="rejected"):
        Parity(SHAKESPEARE, compared(SHAKESPEARE, {**graphs, STEP: other[STEP]}, graphs)).require()


def test_rejects_rows_that_depend_on_other_rows(tmp_path: Path) -> None:
    graphs = graphs_of(SHAKESPEARE, tmp_path)
    model = onnx.load(tmp_path / STEP)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "own"
    mean = helper.make_node("ReduceMean", ["own"], ["mean"], keepdims=1)
    model.graph.node.extend([mean, helper.make_node("Sub", ["own", "mean"], ["logits"])])
    onnx.save(model, tmp_path / STEP)
    mixing = {**graphs, STEP: OnnxGraph(tmp_path / STEP)}
    differences = compared(SHAKESPEARE, mixing)
    rows = [gap for gap in differences if gap.comparison == "rows"]
    assert {(gap.output, gap.rows) for gap in rows if not gap.within} >= {("logits", 1)}


class LooksAhead(nn.Module):
    """Every position reads the word after it."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.honest = ContextCNNOneShot(trained)

    def forward(self, tokens: Tensor) -> Outputs:
        return self.honest(torch.cat((tokens[:, 1:], tokens[:, :1]), dim=1))


def test_rejects_a_position_that_looks_ahead(tmp_path: Path) -> None:
    recipe = replace(language_model(CONTEXT), oneshot=LooksAhead)
    module = built(CONTEXT)
    with pytest.raises(ParityError, match=r"step +logits"):
        Parity(CONTEXT, exported_and_compared(recipe, module, tmp_path, with_module=False)).require()
    with pytest.raises(ModuleError, match="already in PyTorch"):
        check_forms(forms(replace(recipe, max_prompt=64), module))
