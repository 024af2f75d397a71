"""The studies measure what they claim: every form of a layer has the same weights, windows their size."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from unit.studies.conftest import SHIPPED

from lockstep_export.errors import ExportError
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.onnx import export_onnx
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_studies import comparison, growing_context, long_range, measure_memory, receptive_field, serving
from lockstep_studies.encoders import KEEP, Attentive, Pooled, Recurrent, Stacked
from lockstep_studies.graphs import export_step, export_whole
from lockstep_studies.interleaved import median_seconds
from lockstep_studies.long_range import EXAMINED
from lockstep_studies.sequential_cost import cell_of, loop, run_steps, run_whole
from lockstep_studies.study import StudySettings
from lockstep_zoo.models.textcnn import TextCNN

WIDTH = 8


def test_all_forms_of_the_rnn_give_the_same_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    layer = Recurrent("RNN", WIDTH).eval()
    export_step(layer, WIDTH, tmp_path / "step.onnx")
    export_whole(layer, WIDTH, tmp_path / "fused.onnx")
    x = torch.randn(1, 12, WIDTH)
    with torch.inference_mode():
        last = layer(x)[:, -1]
        assert torch.allclose(loop(cell_of(layer), x), last, atol=1e-6)
    assert np.allclose(run_steps(OnnxGraph(tmp_path / "step.onnx"), x), last, atol=1e-6)
    assert np.allclose(run_whole(OnnxGraph(tmp_path / "fused.onnx"), x)[:, -1], last, atol=1e-6)


@pytest.mark.parametrize(
    "layer", [Stacked(WIDTH), Attentive(WIDTH, 32), Recurrent("LSTM", WIDTH), Recurrent("GRU", WIDTH)]
)
def test_an_exported_graph_equals_its_layer_at_any_length(layer: nn.Module, tmp_path: Path) -> None:
    export_whole(layer.eval(), WIDTH, tmp_path / "whole.onnx")
    x = torch.randn(1, 19, WIDTH)
    with torch.inference_mode():
        assert np.allclose(run_whole(OnnxGraph(tmp_path / "whole.onnx"), x), layer(x), atol=1e-5)


def changed_positions(layer: nn.Module, at: int) -> list[int]:
    """The positions, of 40, whose state changes when the input at `at` changes. In float64, because float32
    rounds a change that fades away, sooner on some processors."""
    layer, x = layer.double(), torch.randn(1, 40, WIDTH, dtype=torch.float64)
    changed = x.clone()
    changed[:, at] += 1
    with torch.inference_mode():
        gap = (layer.eval()(changed) - layer(x)).abs().amax(dim=2)[0]
    return gap.nonzero().flatten().tolist()


def test_stacked_convolutions_see_six_positions_on_either_side_or_twelve_back() -> None:
    torch.manual_seed(1)
    assert changed_positions(Stacked(WIDTH), 20) == list(range(14, 27))
    assert changed_positions(Stacked(WIDTH, causal=True), 20) == list(range(20, 33))


def test_layers_without_a_window_reach_the_end() -> None:
    torch.manual_seed(1)
    assert changed_positions(Recurrent("RNN", WIDTH), 20) == list(range(20, 40))
    assert changed_positions(Attentive(WIDTH, 40), 20) == list(range(40))
    assert len(set(Pooled(WIDTH)(torch.randn(1, 9, WIDTH))[0, :, 0].tolist())) == 1


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_keeping_gates_hold_a_state(kind: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(1, 30, WIDTH)
    plain, keeping = (Recurrent(kind, WIDTH, keep).layer for keep in (0.0, KEEP))  # type: ignore[arg-type]
    start = torch.ones(1, 1, WIDTH)
    state = (start, start) if kind == "LSTM" else start
    with torch.inference_mode():
        ends = [layer(x, state)[1] for layer in (plain, keeping)]
    lost, saved = (float((end[1] if kind == "LSTM" else end).mean()) for end in ends)
    assert saved > 0.7
    assert lost < 0.4


def test_signals_are_at_the_first_position_only() -> None:
    symbols, signals = long_range.sequences(50, 12, torch.Generator().manual_seed(1))
    assert symbols.shape == (50, 13)
    assert (symbols[:, 0] == signals).all()
    assert (signals < long_range.SIGNALS).all()
    assert (symbols[:, 1:] >= long_range.SIGNALS).all()


def test_training_stops_early_once_the_task_is_learned() -> None:
    torch.manual_seed(1)
    plan = long_range.LongRangePlan(width=32, batches=400)
    network = long_range.Repeater(Pooled(plan.width), plan.width)
    assert long_range.train(network, 20, plan, torch.Generator().manual_seed(1)) < plan.batches
    symbols, signals = long_range.sequences(200, 20, torch.Generator().manual_seed(EXAMINED))
    assert (network(symbols).argmax(dim=1) == signals).float().mean() > 0.95


def test_only_the_middle_word_differs() -> None:
    plan = receptive_field.ReceptiveFieldPlan(positions=9, texts=200)
    texts, changed = receptive_field.draw_texts(plan, 12, np.random.default_rng(1))
    assert ((texts != changed).sum(axis=0) == [0, 0, 0, 0, 200, 0, 0, 0, 0]).all()
    assert min(texts.min(), changed.min()) == receptive_field.FIRST_ID
    assert max(texts.max(), changed.max()) == 11


def test_the_states_of_a_text_cnn_have_a_window_of_four_words(tmp_path: Path) -> None:
    torch.manual_seed(1)
    folder = tmp_path / "sentiment-textcnn"
    example = {"tokens": torch.ones(2, 9, dtype=torch.int64), "mask": torch.ones(2, 9, dtype=torch.bool)}
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(example, ("batch", "words"))
    graph_spec = GraphSpec("model.onnx", TextCNN(50).eval(), example, axes, ("logits", "vector"))
    export_onnx([graph_spec], folder / "1")
    (folder / "model.toml").write_text("[inputs.tokens]\nrange = [0, 50]\n")
    settings = StudySettings(tmp_path)
    plan = receptive_field.ReceptiveFieldPlan(positions=31, texts=20)
    [row] = receptive_field.measure(plan, settings, lambda *_: None)
    assert (row.before, row.after) == (3, 0)
    assert row.at(0) > 0.1
    assert row.at(1) == 0


def test_compare_states_on_known_states() -> None:
    states = np.ones((3, 5, 4))
    changed = states.copy()
    changed[:, 2:4] *= 1.5
    row = receptive_field.compare_states("made", states, changed)
    assert row.change == [0, 0, 0.5, 0.5, 0]
    assert (row.before, row.after, row.windowed) == (0, 1, True)


def test_times_are_medians_of_interleaved_runs() -> None:
    order: list[str] = []

    def busy() -> None:
        order.append("busy")
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass

    quick, slow = median_seconds([lambda: order.append("idle"), busy], 8)
    assert order[::2] == order[1::2]  # each measured run follows a warm-up run
    rounds = [tuple(order[at : at + 4 : 2]) for at in range(0, len(order), 4)]
    assert set(rounds) == {("idle", "busy"), ("busy", "idle")}  # no contender always follows the same one
    assert quick < 0.005 <= slow


@pytest.mark.parametrize("subject", receptive_field.SUBJECTS, ids=lambda one: one.model)
def test_the_states_of_every_shipped_model_have_one_row_per_text(
    subject: receptive_field.ProbedModel,
) -> None:
    """A retrained model whose graph has changed must fail here before it is published."""
    folder = SHIPPED / subject.model
    ids = np.random.default_rng(0).integers(2, 200, (3, 7))
    session = receptive_field.open_states(folder / receptive_field.GRAPH, subject)
    states = receptive_field._states(session, subject, ids)
    assert states.shape[:2] == (3, 7)
    changed = ids.copy()
    changed[1] += 1
    changed_positions = receptive_field._states(session, subject, changed) != states
    assert changed_positions.any(axis=(1, 2)).tolist() == [False, True, False]


def test_a_process_measures_its_peak_memory(tmp_path: Path) -> None:
    export_whole(Attentive(32, 600).eval(), 32, tmp_path / "encoder.onnx")
    command = [
        sys.executable,
        "-P",
        measure_memory.__file__,
        str(tmp_path / "encoder.onnx"),
        "600",
        "32",
        "2",
    ]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    scores = 4 * 600 * 600 * 4  # heads × positions² × bytes of a float: the attention scores
    assert scores < measured["bytes"] < 20 * scores
    assert measured["seconds"] > 0


def test_the_error_for_a_server_that_exits_contains_its_log(models: Path) -> None:
    (models / "sentiment-bow" / "1" / "model.onnx").write_bytes(b"not a graph")
    with (
        pytest.raises(ExportError, match=r"server: "),
        serving.study_server(models / "no", ["no-such"]),
    ):
        pass


def interrupted(models: Path) -> None:
    with serving.study_server(models, ["sentiment-bow"]) as server:
        assert server.classify("sentiment-bow", "a fine film").computed_elements == 3
        raise KeyboardInterrupt


def test_an_interrupted_study_leaves_no_server_behind(models: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(models)
    assert not [child for child in psutil.Process().children() if "lockstep_server" in child.cmdline()]


def test_a_failed_call_is_an_error(models: Path) -> None:
    with (
        serving.study_server(models, ["sentiment-bow"]) as server,
        pytest.raises(ExportError, match="sentiment-none failed on a text of 1 words: NOT_FOUND"),
    ):
        server.classify("sentiment-none", "x")


def test_the_length_limit_comes_from_the_manifest(models: Path) -> None:
    assert comparison.limit(models / "sentiment-bow") == 4096


def test_texts_above_a_model_limit_are_omitted(models: Path) -> None:
    manifest = models / "sentiment-rnn" / "model.toml"
    manifest.write_text(manifest.read_text().replace("max = 4096", "max = 10"))
    plan = comparison.ComparisonPlan(words=(5, 20), rounds=2)
    rows = comparison.measure(plan, StudySettings(models), lambda *_: None)
    assert {row.model: row.words for row in rows} == {"sentiment-bow": [5, 20], "sentiment-rnn": [5]}
    assert all(row.elements == row.words for row in rows)
    assert all(0 < wait <= high for row in rows for wait, high in zip(row.median_s, row.p90_s, strict=True))


@pytest.mark.parametrize(
    ("model", "held"),
    [(growing_context.LSTM, (2_048, 2_048)), (growing_context.GPT, (16 * 4_096, 128 * 4_096))],
)
def test_a_step_is_measured_with_the_states_of_its_context(model: str, held: tuple[int, int]) -> None:
    """A cache is padded to a power of two with room for one element more; an LSTM's state is not."""
    graph = growing_context.StepGraph(SHIPPED / model)
    assert (graph.state_bytes(10), graph.state_bytes(100)) == held
    assert [growing_context.bucket(count) for count in (1, 16, 17, 1_001)] == [16, 16, 32, 1_024]
    outputs: Any = graph.step(100, 3, np.random.default_rng(0))()
    logits, *states = outputs
    assert logits.shape == (3, 66)
    grown = {state.shape[2] for state in states if state.ndim == 4}
    assert len(grown) == (model == growing_context.GPT)
