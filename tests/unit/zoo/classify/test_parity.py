"""A correct export passes; known errors with padding or steps are rejected."""

from pathlib import Path

import onnx
import pytest
from torch import Tensor
from unit.zoo.sample_data import (
    CLASSIFIERS,
    STEPWISE,
    VOCABULARY,
    as_built,
    built,
    classifier,
    exported,
    quick_pipeline,
    with_other_weights,
)

from lockstep_export.errors import NotTrainedError, ParityError
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import TOLERANCE, Difference, Parity
from lockstep_zoo.classify.parity import ONESHOT, STEP, check_oneshot, check_steps, sample_texts
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


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_trained_classifier_passes(name: str) -> None:
    parity = quick_pipeline().check(name)
    assert parity.worst <= TOLERANCE
    comparisons = {gap.comparison for gap in parity.differences}
    assert comparisons == {"unbatched", "as PyTorch"} | ({"step"} if classifier(name).step else set())


@pytest.mark.parametrize("name", STEPWISE)
def test_one_shot_and_step_graphs_agree_after_every_word(name: str) -> None:
    steps = [gap for gap in quick_pipeline().check(name).differences if gap.comparison == "step"]
    assert all(gap.within for gap in steps)
    assert {gap.output for gap in steps} == {"logits", "vector"}


def test_a_pair_of_graphs_with_random_weights_passes() -> None:
    recipe, module = classifier("sentiment-gru"), built("sentiment-gru")
    graphs = as_built(recipe.name)
    require(check_oneshot(recipe, VOCABULARY, graphs[ONESHOT], module))
    require(check_steps(recipe, VOCABULARY, graphs[STEP], graphs[ONESHOT], module))


def test_rejects_a_step_graph_of_other_weights(tmp_path: Path) -> None:
    recipe = classifier("sentiment-gru")
    oneshot = as_built(recipe.name)[ONESHOT]
    step = with_other_weights(recipe.name, tmp_path)[STEP]
    with pytest.raises(ParityError, match=r"step +logits .* DIFFERS"):
        require(check_steps(recipe, VOCABULARY, step, oneshot))


def test_rejects_a_step_graph_that_swaps_its_states(tmp_path: Path) -> None:
    recipe = classifier("sentiment-lstm")
    graphs = as_built(recipe.name, tmp_path)
    model = onnx.load(tmp_path / STEP)
    names = {"h_out": "c_out", "c_out": "h_out"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, tmp_path / "swapped.onnx")
    with pytest.raises(ParityError, match=r"step +vector .* DIFFERS"):
        require(check_steps(recipe, VOCABULARY, OnnxGraph(tmp_path / "swapped.onnx"), graphs[ONESHOT]))


def test_rejects_a_backward_direction_that_starts_in_the_padding(tmp_path: Path) -> None:
    recipe, module = classifier("sentiment-bilstm"), built("sentiment-bilstm")
    as_built(recipe.name, tmp_path)
    model = onnx.load(tmp_path / ONESHOT)
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""  # sequence_lens
    onnx.save(model, tmp_path / ONESHOT)
    with pytest.raises(ParityError, match="the exported graph is rejected"):
        require(check_oneshot(recipe, VOCABULARY, OnnxGraph(tmp_path / ONESHOT), module))
    with pytest.raises(ParityError, match="unbatched"):
        require(check_oneshot(recipe, VOCABULARY, OnnxGraph(tmp_path / ONESHOT)))


def test_rejects_a_mean_over_padding_although_torch_does_the_same(tmp_path: Path) -> None:
    recipe = classifier("sentiment-transformer")
    module = MeanOverPadding(VOCABULARY).eval()
    graph = exported(recipe, module, tmp_path)[ONESHOT]
    differences = check_oneshot(recipe, VOCABULARY, graph, module)
    assert all(gap.within for gap in differences if gap.comparison == "as PyTorch")
    with pytest.raises(ParityError, match=r"unbatched +logits .* DIFFERS"):
        require(differences)


def test_rejects_other_weights(tmp_path: Path) -> None:
    recipe = classifier("sentiment-bow")
    graph = as_built(recipe.name)[ONESHOT]
    with pytest.raises(ParityError, match="as PyTorch"):
        require(check_oneshot(recipe, VOCABULARY, graph, recipe.build(VOCABULARY).eval()))


def test_a_frozen_axis_is_reported_as_a_failed_run(tmp_path: Path) -> None:
    recipe = classifier("sentiment-bow")
    as_built(recipe.name, tmp_path)
    model = onnx.load(tmp_path / ONESHOT)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, tmp_path / ONESHOT)
    with pytest.raises(ParityError, match=r"run +any .* DIFFERS .*dimensions"):
        require(check_oneshot(recipe, VOCABULARY, OnnxGraph(tmp_path / ONESHOT)))


def test_nan_is_not_equal() -> None:
    assert not Difference("unbatched", "logits", 1, float("nan")).within


def test_batches_have_rows_of_different_lengths_and_one_long_row() -> None:
    batches = list(sample_texts(VOCABULARY, 4096))
    assert [len(rows) for rows in batches] == [1, 2, 3, 8, 17]
    assert max(len(row) for row in batches[-1]) == 300
    assert len({len(row) for row in batches[-1]}) > 5
    assert all(0 < token < VOCABULARY for rows in batches for row in rows for token in row)


def test_a_missing_graph_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotTrainedError, match="no exported model at"):
        OnnxGraph(tmp_path / "model.onnx")
