"""A correct export passes; known errors with padding or steps are rejected."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor
from unit.zoo.sample_data import (
    STEPWISE,
    VOCABULARY,
    built,
    classifier,
    compared,
    compared_with_new_weights,
    exported_and_compared,
    forms,
    graphs_of,
    quick_pipeline,
    with_other_weights,
)

from lockstep_export.errors import ModuleError, NotTrainedError, ParityError
from lockstep_export.forms import ONESHOT, export_forms
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import TOLERANCE, Difference, Parity
from lockstep_export.samples import batches
from lockstep_export.step_module import STEP
from lockstep_zoo.models.transformer import TransformerClassifier
from lockstep_zoo.recipe import Outputs


class MeanOverPadding(TransformerClassifier):
    """Pools with a mean that ignores the mask."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        real = mask.float()
        mean = (self.embedding(tokens) + 0.0 * real[:, :, None]).mean(dim=1)
        pairs = (real[:, None, :] * real[:, :, None])[:, None, None]
        return {"logits": self.head(mean), "vector": mean, "attention": pairs}


def require(differences: list[Difference]) -> None:
    Parity("a model", differences).require()


@pytest.mark.parametrize(
    "name", ["sentiment-mean", "sentiment-lstm", "sentiment-bilstm", "sentiment-transformer"]
)
def test_a_trained_classifier_of_each_kind_passes(name: str) -> None:
    """The export of the quick build has proven all of them; this proves its files again."""
    parity = quick_pipeline().check(name)
    assert parity.worst <= TOLERANCE
    steps = {"step"} if name in STEPWISE else set()
    assert {gap.comparison for gap in parity.differences} == {"batched", "padded", "as PyTorch"} | steps
    assert {gap.output for gap in parity.differences if gap.comparison == "step"} <= {"logits", "vector"}


def test_rejects_a_step_graph_of_other_weights(tmp_path: Path) -> None:
    graphs, other = graphs_of("sentiment-gru"), with_other_weights("sentiment-gru", tmp_path)
    with pytest.raises(ParityError, match=r"step +logits .* DIFFERS"):
        require(compared("sentiment-gru", {**graphs, STEP: other[STEP]}))


def test_rejects_a_step_graph_that_swaps_its_states(tmp_path: Path) -> None:
    graphs = graphs_of("sentiment-lstm", tmp_path)
    model = onnx.load(tmp_path / STEP)
    names = {"h_out": "c_out", "c_out": "h_out"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, tmp_path / "swapped.onnx")
    swapped = {**graphs, STEP: OnnxGraph(tmp_path / "swapped.onnx")}
    with pytest.raises(ParityError, match=r"step +vector .* DIFFERS"):
        require(compared("sentiment-lstm", swapped))


def test_rejects_a_backward_direction_that_starts_in_the_padding(tmp_path: Path) -> None:
    right = graphs_of("sentiment-bilstm")
    graphs_of("sentiment-bilstm", tmp_path)
    model = onnx.load(tmp_path / ONESHOT)
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""  # sequence_lens
    onnx.save(model, tmp_path / ONESHOT)
    graphs = {ONESHOT: OnnxGraph(tmp_path / ONESHOT)}
    with pytest.raises(ParityError, match="the exported graph is rejected"):
        require(compared("sentiment-bilstm", graphs, right))
    with pytest.raises(ParityError, match="padded"):
        require(compared("sentiment-bilstm", graphs))


def test_rejects_a_mean_over_padding_although_torch_does_the_same(tmp_path: Path) -> None:
    recipe = classifier("sentiment-transformer")
    module = MeanOverPadding(VOCABULARY).eval()
    differences = exported_and_compared(recipe, module, tmp_path)
    assert all(gap.within for gap in differences if gap.comparison == "as PyTorch")
    with pytest.raises(ParityError, match=r"padded +logits .* DIFFERS"):
        require(differences)
    with pytest.raises(ModuleError, match="padding changes results, already in PyTorch"):
        export_forms(forms(recipe, module), tmp_path / "published")


def test_rejects_other_weights() -> None:
    with pytest.raises(ParityError, match="as PyTorch"):
        require(compared_with_new_weights("sentiment-bow"))


def test_a_frozen_axis_is_reported_as_a_failed_run(tmp_path: Path) -> None:
    right = graphs_of("sentiment-bow")
    graphs_of("sentiment-bow", tmp_path)
    model = onnx.load(tmp_path / ONESHOT)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, tmp_path / ONESHOT)
    with pytest.raises(ParityError, match=r"run +any .* DIFFERS .*dimensions"):
        require(compared("sentiment-bow", {ONESHOT: OnnxGraph(tmp_path / ONESHOT)}, right))


def test_nan_is_not_equal() -> None:
    assert not Difference("batched", "logits", 1, float("nan")).within


def test_batches_have_rows_of_different_lengths_and_one_long_row() -> None:
    recipe = classifier("sentiment-gru")
    oneshot = forms(recipe, built(recipe.name)).oneshot
    assert oneshot is not None
    found = list(batches(oneshot.contract))
    lengths = [[row.lengths["words"] for row in rows] for rows in found]
    assert [len(rows) for rows in found] == [4, 1, 2, 3, 8, 17]
    assert max(map(max, lengths)) == 300
    assert len(set(lengths[-1])) > 5
    ids = torch.cat([row.inputs["tokens"].flatten() for rows in found for row in rows])
    assert 0 < ids.min() <= ids.max() < VOCABULARY


def test_a_missing_graph_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotTrainedError, match="no exported model at"):
        OnnxGraph(tmp_path / "model.onnx")
