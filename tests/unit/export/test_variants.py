"""Variants: narrower numbers, the same names, and a report of the cost."""

import shutil
import tomllib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.export.sample_exports import sample_export
from unit.export.sample_modules import LENGTHS, TOKENS

from lockstep_export.cli import variant
from lockstep_export.comparison import compare
from lockstep_export.errors import ExportError, ModuleError
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.precision import narrowed, quantized
from lockstep_export.variants import make_variant
from lockstep_zoo import quality
from lockstep_zoo.task import Figures

ROWS = {"tokens": TOKENS, "lengths": LENGTHS}
FILES = ["model.onnx", "step.onnx"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights that are large enough to be converted."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    shutil.copytree(sample_export("wide").folder, folder)
    return folder


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "1").iterdir())


@pytest.mark.parametrize(("kind", "share"), [("fp16", 0.85), ("int8", 0.7), ("int8-dynamic", 0.85)])
def test_a_variant_has_the_same_names_and_fewer_bytes(
    model: Path, tmp_path: Path, kind: str, share: float
) -> None:
    lines: list[str] = []
    comparisons = make_variant(model, kind, tmp_path, report=lines.append)  # type: ignore[arg-type]
    folder = tmp_path / f"mine-{kind}"
    assert size(folder) < share * size(model)
    assert [one.graph for one in comparisons] == FILES
    assert all(0 < one.largest < 0.1 and one.agreeing is not None for one in comparisons)
    assert lines[0].startswith(f"{folder / '1'}: ")
    assert [line.split()[0] for line in lines[1:]] == FILES
    assert all("of best scores agree, largest difference" in line and "fp32" in line for line in lines[1:])
    found, expected = (OnnxGraph(path / "1/model.onnx").run(ROWS)["logits"] for path in (folder, model))
    assert found.dtype == expected.dtype
    assert np.allclose(found, expected, atol=0.1)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_8_bit_products_cannot_overflow_16_bit_sums(model: Path, tmp_path: Path) -> None:
    """Without VNNI two products are added in 16 bits: 255 x 64 x 2 fits, 255 x 127 x 2 does not."""
    make_variant(model, "int8-dynamic", tmp_path, report=lambda _: None)
    for file in FILES:
        graph = onnx.load(tmp_path / "mine-int8-dynamic/1" / file).graph
        taken = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
        weights = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name in taken]
        assert weights
        assert all(np.abs(one.astype(int)).max() <= 64 for one in weights)


def learn(texts: str, folder: Path, quick: bool) -> str:
    (folder / "tokenizer.json").write_text(texts)
    return texts


KNOWN = SimpleNamespace(
    tokenizers=("tokenizer.json",),
    read=lambda data: (data / "text").read_text(),
    prepare=learn,
    figures=lambda recipe, corpus, graphs: Figures("accuracy", len(corpus) / 100, len(corpus) / 200),
)
"""A task whose figures depend on the length of its corpus."""


def test_a_model_of_the_zoo_is_measured_on_its_data(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "ZOO", {"mine": None})
    monkeypatch.setattr(quality, "task_of", lambda recipe: KNOWN)
    mine, data = tmp_path / "mine", tmp_path / "data"
    lines: list[str] = []
    shutil.copytree(model, mine)
    data.mkdir()
    for text in (data / "text", mine / "tokenizer.json"):
        text.write_text("x" * 80)
    make_variant(mine, "fp16", tmp_path, report=lines.append, measure=partial(quality.quality, data=data))
    measured = "accuracy dev 80.0%, test 40.0% (fp32: dev 80.0%, test 40.0%)"
    assert lines[-1] == f"  {measured}"
    assert measured in (tmp_path / "mine-fp16/model.toml").read_text()
    (data / "text").write_text("other")
    with pytest.raises(ExportError, match=r"not the data of 'mine': its tokenizer\.json"):
        make_variant(mine, "int8", tmp_path, report=lines.append, measure=partial(quality.quality, data=data))
    assert not (tmp_path / "mine-int8").exists()


def test_a_model_outside_the_zoo_cannot_be_measured(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'mine' is not a model of the zoo"):
        make_variant(
            model, "fp16", tmp_path, report=lambda _: None, measure=partial(quality.quality, data=tmp_path)
        )


def test_the_manifest_changes_only_where_the_kind_needs_it(model: Path, tmp_path: Path) -> None:
    original = tomllib.loads((model / "model.toml").read_text())
    for kind in ("fp16", "int8", "int8-dynamic"):
        make_variant(model, kind, tmp_path, report=lambda _: None)
    halves, weights, dynamic = (
        tomllib.loads((tmp_path / f"mine-{kind}/model.toml").read_text())
        for kind in ("fp16", "int8", "int8-dynamic")
    )
    assert weights == original
    assert halves == original | {"tolerance": 0.02}
    assert dynamic == original | {"batching": original["batching"] | {"max_rows": 1}}


def test_rows_stay_independent_with_int8_weights(model: Path, tmp_path: Path) -> None:
    make_variant(model, "int8", tmp_path, report=lambda _: None)
    graph = OnnxGraph(tmp_path / "mine-int8/1/model.onnx")
    together = graph.run(ROWS)["logits"]
    for index, length in enumerate(LENGTHS.tolist()):
        one = slice(index, index + 1)
        alone = graph.run({"tokens": TOKENS[one, :length], "lengths": LENGTHS[one]})["logits"]
        assert np.array_equal(together[one], alone)


@given(st.integers(0, 1000), st.integers(2, 20), st.integers(2, 20))
def test_quantized_integers_lose_half_a_step_at_most(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * rng.exponential(1, (rows, 1))
    whole, scale = quantized(values.astype(np.float32))
    assert whole.dtype == np.int8
    assert np.abs(whole * scale - values).max() <= scale.max() * 0.51


def test_values_out_of_range_are_reported_and_nothing_is_left(tmp_path: Path, model: Path) -> None:
    for file in (model / "1").iterdir():
        (tmp_path / "large/1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "large/1" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "large/model.toml").write_text((model / "model.toml").read_text())
    graph = onnx.load(tmp_path / "large/1/model.onnx")
    bias = next(one for one in graph.graph.initializer if one.name.endswith("head.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([1e6, 0], np.float32), bias.name))
    onnx.save(graph, tmp_path / "large/1/model.onnx")
    with pytest.raises(ModuleError, match="has values above 65,504"):
        make_variant(tmp_path / "large", "fp16", tmp_path, report=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_a_mask_of_minus_infinity_is_unchanged() -> None:
    mask = np.triu(np.full((40, 40), -np.inf, np.float32), 1)
    floats = onnx.TensorProto.FLOAT
    x, y = (onnx.helper.make_tensor_value_info(name, floats, [40, 40]) for name in "xy")
    node = onnx.helper.make_node("Add", ["x", "mask"], ["y"])
    graph = onnx.helper.make_graph([node], "masked", [x], [y], [onnx.numpy_helper.from_array(mask, "mask")])
    (kept,) = narrowed(onnx.helper.make_model(graph), "int8").graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(kept), mask)


def test_a_variant_of_the_current_folder_gets_the_folders_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model)
    make_variant(Path(), "int8", tmp_path, report=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine-int8"]


def roots(second: str) -> onnx.ModelProto:
    """The square roots of |x|, and those of |x| or −|x| as the second output."""
    floats = onnx.TensorProto.FLOAT
    x, *given = (
        onnx.helper.make_tensor_value_info(name, floats, ["batch", 4]) for name in ("x", "one", "other")
    )
    links = (
        ("Abs", "x", "size"),
        ("Neg", "size", "minus"),
        ("Sqrt", "size", "one"),
        ("Sqrt", second, "other"),
    )
    nodes = [onnx.helper.make_node(kind, [taken], [left]) for kind, taken, left in links]
    graph = onnx.helper.make_graph(nodes, "roots", [x], given)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_an_output_with_nan_is_detected_after_finite_ones(tmp_path: Path) -> None:
    for second in ("size", "minus"):
        onnx.save(roots(second), tmp_path / f"{second}.onnx")
    original, variant_of_it = (OnnxGraph(tmp_path / f"{second}.onnx") for second in ("size", "minus"))
    assert not np.isfinite(compare("roots", original, variant_of_it, {}, {}).largest)


def test_a_variant_replaces_an_older_one_and_is_readable_by_others(model: Path, tmp_path: Path) -> None:
    for _ in range(2):
        make_variant(model, "int8", tmp_path, report=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine-int8"]
    assert (tmp_path / "mine-int8").stat().st_mode & 0o777 == 0o755


def test_a_missing_model_and_an_unknown_kind_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"pass the folder that holds model\.toml and 1/"):
        make_variant(tmp_path / "none", "int8", tmp_path)
    with pytest.raises(ExportError, match="--kind: unknown kind 'int4'; available: fp16, int8, int8-dynamic"):
        variant(tmp_path / "none", "int4", tmp_path)
