"""Step-wise models derived from a module's own forward, and steps written by their authors."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from unit.export import sample_modules
from unit.export.sample_exports import arguments, sample_export
from unit.export.sample_modules import LENGTHS, TOKENS, WITH_LENGTHS, Reader
from unit.zoo.sample_data import VOCABULARY, built

from lockstep_export import export_stepwise
from lockstep_export.checks import check_module
from lockstep_export.derive_step import derive
from lockstep_export.forms import check_forms
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.packing import without_packing
from lockstep_export.parse_spec import parse_spec
from lockstep_export.ragged import padded
from lockstep_export.stepwise import stepwise_forms
from lockstep_zoo.models.recurrent_classifier import RecurrentClassifierStep


def stepwise(folder: Path) -> dict[str, Any]:
    text = (folder / "model.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["stepwise"])


def test_a_step_is_derived_with_named_states() -> None:
    made = sample_export("LSTM-2")
    assert made.worst < 1e-5
    assert made.training
    assert stepwise(made.folder) == {
        "graph": "step.onnx",
        "inputs": {"tokens": {"batch_axis": 0, "range": [0, 40]}},
        "outputs": {"logits": {"batch_axis": 0}},
        "state": [
            {"name": name, "input": f"{name}_in", "output": f"{name}_out", "batch_axis": 1} for name in "hc"
        ],
    }
    step = OnnxGraph(made.folder / "1/step.onnx")
    assert {one.name: one.shape for one in step.session.get_inputs()} == {
        "tokens": ["batch"],
        "h_in": [2, "batch", 8],
        "c_in": [2, "batch", 8],
    }


def test_large_weights_are_stored_once() -> None:
    version = sample_export("wide").folder / "1"
    bytes_of_weights = 4 * sum(weight.numel() for weight in arguments("wide")["module"].parameters())
    stored = sum(file.stat().st_size for file in version.iterdir())
    assert (version / "weights.bin").is_file()
    assert stored < 1.5 * bytes_of_weights


@pytest.mark.parametrize("more", [{"packed": True}, {"nonlinearity": "relu", "bias": False}])
def test_packed_and_relu_layers_are_derived_too(more: dict[str, Any], tmp_path: Path) -> None:
    kind = "RNN" if "nonlinearity" in more else "GRU"
    parity = export_stepwise(Reader(kind, **more), (TOKENS, LENGTHS), tmp_path / "mine", **WITH_LENGTHS)
    assert parity.worst < 1e-5


def test_several_layers_name_their_states_and_positions_become_steps() -> None:
    folder = sample_export("language").folder
    found = stepwise(folder)
    assert found["max_tokens"] == 90
    assert [state["name"] for state in found["state"]] == ["lower_h", "upper_h", "upper_c"]
    shapes = {one.name: one.shape for one in OnnxGraph(folder / "1/step.onnx").session.get_outputs()}
    assert shapes["logits"] == ["batch", 40]


class Started(Reader):
    """Starts from states of 0.5."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        start = torch.full((1, tokens.shape[0], 8), 0.5)
        states, _ = self.recurrence(self.embedding(tokens), hx=start)
        return self.head(states[torch.arange(tokens.shape[0]), lengths - 1])


def test_a_constant_initial_state_goes_into_the_manifest() -> None:
    forms = stepwise_forms(Started("GRU"), (TOKENS, LENGTHS), **WITH_LENGTHS)
    check_forms(forms)  # the step, from this state, has the results of the module
    (state,) = forms.table()["stepwise"]["state"]
    assert state["initial"] == 0.5


class PackedByPosition(Reader):
    """Calls torch's packing with positional arguments."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(self.embedding(tokens), lengths.cpu(), True, False)
        _, last = self.recurrence(packed)
        return self.head(last[-1])


def test_packing_accepts_torchs_positional_arguments() -> None:
    forms = stepwise_forms(PackedByPosition("GRU"), (TOKENS, LENGTHS), **WITH_LENGTHS)
    check_forms(forms)
    assert [state["name"] for state in forms.table()["stepwise"]["state"]] == ["h"]


class Largest(nn.Module):
    """A running maximum."""

    def forward(self, value: Tensor, best: Tensor) -> dict[str, Tensor]:
        best = torch.maximum(value, best)
        return {"largest": best, "best": best}


def test_a_state_may_start_from_minus_infinity(tmp_path: Path) -> None:
    export_stepwise(
        Largest(),
        {"value": torch.zeros(2, 3), "best": torch.zeros(2, 3)},
        tmp_path / "mine",
        axes=("batch 3", "batch 3"),
        states={"best": "best"},
        initial={"best": -math.inf},
        report=lambda _: None,
    )
    (state,) = stepwise(tmp_path / "mine")["state"]
    assert state["initial"] == -math.inf


def test_a_step_written_by_its_author_keeps_its_names() -> None:
    folder = sample_export("step").folder
    assert stepwise(folder)["state"] == [
        {"name": "h", "input": "h", "output": "h_next", "batch_axis": 0},
        {"name": "c", "input": "c", "output": "c_out", "initial": 0.5, "batch_axis": 0},
    ]
    assert [path.name for path in (folder / "1").iterdir()] == ["step.onnx"]


def test_the_derived_step_of_a_shipped_model_equals_its_written_one() -> None:
    """The zoo's steps are written by hand and project whole embeddings; the results are the same."""
    module = built("sentiment-lstm")
    tokens, lengths = padded([[3, 4, 5, 6], [7, 8]])
    example = {"tokens": tokens, "lengths": lengths}
    contract = parse_spec(
        module, example, {"tokens": "batch words", "lengths": "batch"}, (), {"lengths": "lengths"}
    )
    derived = derive(module, contract, check_module(module, contract))
    token, (h, c) = torch.arange(VOCABULARY), torch.randn(2, 1, VOCABULARY, 64)
    found = derived.answer({"tokens": token, "h_in": h, "c_in": c})
    with torch.no_grad():
        expected = RecurrentClassifierStep(module).eval()(token, h, c)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(torch.from_numpy(found[name]), expected[name], atol=1e-6) for name in found)


def test_packing_is_restored_afterwards() -> None:
    original = rnn.pack_padded_sequence
    try:
        with without_packing(Reader(packed=True)):
            assert sample_modules.pack_padded_sequence is rnn.pack_padded_sequence is not original
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert sample_modules.pack_padded_sequence is rnn.pack_padded_sequence is original
