"""A good export passes; every known way of getting padding wrong is refused."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from lockstep_export.errors import NotTrainedError, ParityError
from lockstep_export.graph import Graph
from lockstep_export.onnx import export_onnx
from lockstep_export.parity import TOLERANCE, Difference, check_parity, texts
from lockstep_export.zoo import ZOO, Outputs, Recipe
from lockstep_export.zoo.transformer import TransformerClassifier

VOCABULARY = 60


class MeanOverPadding(TransformerClassifier):
    """Pools with a mean that ignores the mask."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        real = mask.to(torch.float32)
        mean = (self.embedding(tokens) + 0.0 * real[:, :, None]).mean(dim=1)
        pairs = (real[:, None, :] * real[:, :, None])[:, None, None]
        return {"logits": self.head(mean), "vector": mean, "attention": pairs}


def built(name: str) -> nn.Module:
    """A module with weights that matter: freshly built ones have zeros that would hide faults."""
    torch.manual_seed(3)
    module = ZOO[name].build(VOCABULARY).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
        for layer in module.modules():
            if isinstance(layer, nn.Embedding):
                layer.weight[0] = 0.0
    return module


def exported(recipe: Recipe, module: nn.Module, folder: Path) -> Path:
    path = folder / "model.onnx"
    export_onnx(recipe, module, path)
    return path


@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_is_equal(name: str, tmp_path: Path) -> None:
    module = built(name)
    parity = check_parity(ZOO[name], VOCABULARY, Graph(exported(ZOO[name], module, tmp_path)), module)
    parity.require()
    assert parity.worst <= TOLERANCE
    assert {gap.comparison for gap in parity.differences} == {"alone", "as PyTorch"}


def test_refuses_a_backward_direction_that_starts_in_the_padding(tmp_path: Path) -> None:
    recipe = ZOO["sentiment-bilstm"]
    module = built(recipe.name)
    path = exported(recipe, module, tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""  # sequence_lens
    onnx.save(model, path)
    with pytest.raises(ParityError, match=r"sentiment-bilstm: the exported graph is refused"):
        check_parity(recipe, VOCABULARY, Graph(path), module).require()
    with pytest.raises(ParityError, match="alone"):
        check_parity(recipe, VOCABULARY, Graph(path)).require()


def test_refuses_a_mean_over_padding_although_torch_does_the_same(tmp_path: Path) -> None:
    recipe = ZOO["sentiment-transformer"]
    module = MeanOverPadding(VOCABULARY).eval()
    parity = check_parity(recipe, VOCABULARY, Graph(exported(recipe, module, tmp_path)), module)
    assert all(gap.within for gap in parity.differences if gap.comparison == "as PyTorch")
    with pytest.raises(ParityError, match=r"alone +logits .* DIFFERS"):
        parity.require()


def test_refuses_other_weights(tmp_path: Path) -> None:
    recipe = ZOO["sentiment-bow"]
    path = exported(recipe, built(recipe.name), tmp_path)
    with pytest.raises(ParityError, match="as PyTorch"):
        check_parity(recipe, VOCABULARY, Graph(path), recipe.build(VOCABULARY).eval()).require()


def test_a_frozen_axis_is_told_and_not_raised(tmp_path: Path) -> None:
    recipe = ZOO["sentiment-bow"]
    path = exported(recipe, built(recipe.name), tmp_path)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, path)
    with pytest.raises(ParityError, match=r"run +any .* DIFFERS .*dimensions"):
        check_parity(recipe, VOCABULARY, Graph(path)).require()


def test_not_a_number_is_not_equal() -> None:
    assert not Difference("alone", "logits", 1, float("nan")).within


def test_batches_are_ragged_and_one_is_long() -> None:
    batches = list(texts(VOCABULARY, 4096))
    assert [len(rows) for rows in batches] == [1, 2, 3, 8, 17]
    assert max(len(row) for row in batches[-1]) == 300
    assert len({len(row) for row in batches[-1]}) > 5
    assert all(0 < token < VOCABULARY for rows in batches for row in rows for token in row)


def test_a_missing_graph_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotTrainedError, match="no exported model at"):
        Graph(tmp_path / "model.onnx")
