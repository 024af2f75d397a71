"""export_oneshot publishes models with the module's results, or nothing."""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from unit.export.sample_exports import sample_export
from unit.export.sample_modules import (
    LENGTHS,
    TOKENS,
    WITH_LENGTHS,
    Counted,
    LastState,
    Loop,
    MaskedMean,
    Reader,
)

from lockstep_export import Encode, export_oneshot
from lockstep_export.errors import FrozenError, ModuleError, ParityError
from lockstep_export.forms import Parts, export_forms
from lockstep_export.oneshot import oneshot_forms


def manifest(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))


def axes(file: Path) -> dict[str, list[str | int]]:
    graph = onnx.load(file).graph
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize(
    "more",
    [{"kind": "GRU", "layers": 2}, {"kind": "LSTM", "packed": True, "bidirectional": True}],
)
def test_recurrent_modules_are_exported_unchanged(more: dict[str, Any], tmp_path: Path) -> None:
    module = Reader(**more)
    parity = export_oneshot(module, (TOKENS, LENGTHS), tmp_path / "mine", **WITH_LENGTHS)
    assert parity.worst < 1e-5
    assert module.training
    assert axes(tmp_path / "mine/1/model.onnx") == {
        "tokens": ["batch", "words"],
        "lengths": ["batch"],
        "logits": ["batch", 2],
    }
    assert manifest(tmp_path / "mine") == {
        "task": "classify",
        "labels": ["no", "yes"],
        "roles": {"scores": "logits", "activation": "softmax"},
        "lengths": {"words": {"max": 512}},
        "inputs": {
            "tokens": {"batch_axis": 0, "lengths": {"1": "words"}, "pad": 0, "range": [0, 40]},
            "lengths": {"batch_axis": 0, "generated": "lengths", "of": "words"},
        },
        "outputs": {"logits": {"batch_axis": 0}},
        "batching": {"max_rows": 64, "max_padded_elements": 4096},
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_module_is_published_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    export_oneshot(Reader().to(dtype), (TOKENS, LENGTHS), tmp_path / "mine", **WITH_LENGTHS)
    (scores,) = onnx.load(tmp_path / "mine/1/model.onnx").graph.output
    assert scores.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_a_module_with_its_batch_axis_second_gets_a_graph_with_it_first() -> None:
    folder = sample_export("second").folder
    assert axes(folder / "1/model.onnx")["tokens"] == ["batch", "words"]
    assert manifest(folder)["batching"]["max_rows"] == 1


class Described(MaskedMean):
    """Returns several tensors by name, one of them with an element per word; takes a padding mask."""

    def forward(self, tokens: Tensor, padding: Tensor) -> dict[str, Tensor | None]:  # type: ignore[override]
        vector = super().forward(tokens, ~padding)
        return {"vector": vector, "words": self.embedding(tokens), "nothing": None, "tokens": tokens}


def test_outputs_keep_their_names_and_their_axes_are_inferred(tmp_path: Path) -> None:
    export_oneshot(
        Described(),
        {"tokens": TOKENS, "padding": TOKENS == 0},
        tmp_path / "mine",
        axes={"tokens": "batch words", "padding": "batch words"},
        padding_mask="padding",
        task=Encode(),
        longest={"words": 77},
        about="Two vectors",
        report=lambda _: None,
    )
    written = manifest(tmp_path / "mine")
    assert written["inputs"]["padding"]["real"] is False
    assert written["lengths"] == {"words": {"max": 77}}
    ragged = {"batch_axis": 0, "lengths": {"1": "words"}}
    assert written["outputs"] == {"vector": {"batch_axis": 0}, "words": ragged, "tokens_out": ragged}
    assert (tmp_path / "mine/model.toml").read_text().startswith("# Two vectors. ")


class Tagged(nn.Module):
    """Words and their tags, each with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.tags = nn.Embedding(40, 6), nn.Embedding(10, 6)

    def forward(self, words: Tensor, tags: Tensor) -> Tensor:
        return self.words(words) + self.tags(tags)


def test_examples_that_share_storage_are_distinguished(tmp_path: Path) -> None:
    words, tags = torch.zeros(2, 3, 5, dtype=torch.int64)
    axes = ("batch words", "batch words")
    export_oneshot(Tagged(), (words, tags), tmp_path / "mine", axes=axes, report=lambda _: None)
    ranges = {name: words["range"] for name, words in manifest(tmp_path / "mine")["inputs"].items()}
    assert ranges == {"words": [0, 40], "tags": [0, 10]}


class Unsupported(nn.Module):
    """Singular values: ONNX has no operator for them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x[:, :, None] * x[:, None, :])


def test_a_missing_operator_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"ONNX Runtime has no operator for aten\._linalg_svd"):
        export_oneshot(Unsupported(), torch.randn(3, 4), tmp_path / "mine", axes="batch 4")
    assert list(tmp_path.iterdir()) == []


def test_a_loop_over_the_words_is_reported_as_a_frozen_axis(tmp_path: Path) -> None:
    with pytest.raises(FrozenError, match="the axis 'words' of 'tokens' is frozen at 7"):
        export_oneshot(Loop(), (TOKENS, LENGTHS), tmp_path / "mine", **WITH_LENGTHS)
    assert list(tmp_path.iterdir()) == []


def test_the_second_tracer_is_used_when_the_first_is_wrong(tmp_path: Path) -> None:
    module, begun = LastState("RNN", bidirectional=True, nonlinearity="relu"), []
    forms = oneshot_forms(module, (TOKENS, LENGTHS), **WITH_LENGTHS)
    parity = export_forms(forms, tmp_path / "mine", lambda *part: begun.append(part))
    assert parity.worst < 1e-5
    assert begun == [
        (done, 3, f"{part} model.onnx") for done, part in enumerate(("checking", "tracing", "proving"))
    ]


def test_a_silently_frozen_axis_is_reported_and_the_published_version_stays(tmp_path: Path) -> None:
    shutil.copytree(sample_export("wide").folder, tmp_path / "mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(FrozenError, match="the axis 'batch' of 'tokens' is frozen at 3"):
        export_oneshot(Counted("RNN"), (TOKENS, LENGTHS), tmp_path / "mine", **WITH_LENGTHS)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


class Deciding(MaskedMean):
    """Branches on a value."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        scores = super().forward(tokens, mask)
        return scores if bool(tokens.max() >= 0) else -scores


def test_a_branch_on_values_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FrozenError, match=r"branches on the values of a tensor .* use torch\.where"):
        export_oneshot(
            Deciding(), (TOKENS, TOKENS > 0), tmp_path / "mine", axes=("batch words",) * 2, mask="mask"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_different_results_is_rejected_with_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(model: Any) -> None:
        bias = next(one for one in model.graph.initializer if one.name.endswith("head.1.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.01, bias.name))

    monkeypatch.setattr("lockstep_export.onnx.store_halves", shifted)
    with pytest.raises(ParityError) as caught:
        export_oneshot(Reader(), (TOKENS, LENGTHS), tmp_path / "mine", **WITH_LENGTHS)
    title, header, *rows = str(caught.value).split("\n")
    assert title == "mine: the exported graph is rejected, 24 of 24 comparisons exceed their tolerance"
    assert header.split() == ["comparison", "output", "rows", "largest", "allowed", "at"]
    assert all("logits" in row and "1.0e-02  1e-04    DIFFERS  words " in row for row in rows[:12])
    assert rows[12].strip() == "and 12 more"
    assert rows[13].startswith("The graph is wrong at sizes other than")
    assert list(tmp_path.iterdir()) == []


def test_a_version_replaces_itself_and_a_further_one_has_its_own_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(sample_export("wide").folder, folder)  # an LSTM
    export_oneshot(Reader("GRU"), (TOKENS, LENGTHS), folder, **WITH_LENGTHS)
    assert not (folder / "1/step.onnx").exists()
    first = (folder / "model.toml").read_bytes()
    assert "GRU" in {node.op_type for node in onnx.load(folder / "1/model.onnx").graph.node}
    masked = {"axes": ("batch words",) * 2, "mask": "mask", "task": WITH_LENGTHS["task"]}
    export_oneshot(MaskedMean(), (TOKENS, TOKENS > 0), folder, **masked, version=2, report=lambda _: None)
    assert (folder / "model.toml").read_bytes() == first
    assert "mask" in manifest(folder / "2")["inputs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_parts_that_a_second_tracer_does_again_are_counted() -> None:
    begun: list[tuple[int, int, str]] = []
    parts = Parts(2, lambda *part: begun.append(part))
    for what in ("trace", "prove", "trace", "prove"):
        parts.begin(what)
    assert begun == [(0, 2, "trace"), (1, 2, "prove"), (2, 3, "trace"), (3, 4, "prove")]
