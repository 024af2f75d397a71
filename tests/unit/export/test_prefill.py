"""Steps that a prefill starts, caches that grow, and memory that is carried unchanged."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from unit.export.sample_exports import sample_export
from unit.export.sample_modules import (
    HIDDEN,
    LENGTHS,
    TOKENS,
    VOCABULARY,
    Decoder,
    NextToken,
    Prompt,
    Source,
    Target,
    cached,
    prefilled,
    translating,
)

from lockstep_export import Generate, State, Tensors, Translate, Whole, export_stepwise
from lockstep_export.errors import DescriptionError, ModuleError, ParityError
from lockstep_export.forms import check_forms, prove_forms
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Parity
from lockstep_export.stepwise import stepwise_forms
from lockstep_server.engine.loading.check import check

WORDS = Tokenizer(models.WordLevel({str(index): index for index in range(VOCABULARY)}, unk_token="0"))


def export(folder: Path, arguments: dict[str, Any]) -> tuple[Parity, dict[str, Any]]:
    """Exports a model; its parity and its manifest."""
    module, example, *_ = arguments.pop("module"), arguments.pop("example")
    parity = export_stepwise(module, example, folder / "mine", **arguments)
    return parity, read_manifest(folder / "mine")


def read_manifest(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))


def test_a_prefill_starts_the_states_of_a_language_model() -> None:
    made = sample_export("prefilled")
    manifest = read_manifest(made.folder)
    assert made.comparisons == {"batched", "padded", "as PyTorch", "forced"}
    assert manifest["lengths"] == {"prompt": {"max": 512}}
    assert manifest["prefill"] == {
        "graph": "prefill.onnx",
        "inputs": {
            "tokens": {"batch_axis": 0, "lengths": {"1": "prompt"}, "pad": 0, "range": [0, VOCABULARY]},
            "lengths": {"batch_axis": 0, "generated": "lengths", "of": "prompt"},
        },
        "outputs": {"logits": {"batch_axis": 0}, "h0": {"batch_axis": 1}},
    }
    assert manifest["stepwise"]["state"] == [
        {"name": "h", "input": "h", "output": "h_next", "prefill": "h0", "batch_axis": 1}
    ]
    prefill = OnnxGraph(made.folder / "1/prefill.onnx")
    assert {one.name: one.shape for one in prefill.session.get_outputs()} == {
        "logits": ["batch", VOCABULARY],
        "h0": [1, "batch", HIDDEN],
    }


@pytest.mark.parametrize("prefill", [False, True])
def test_a_cache_grows_by_one_element_per_step(prefill: bool) -> None:
    made = sample_export("cached-prefilled" if prefill else "cached")
    manifest = read_manifest(made.folder)
    assert made.worst < 1e-5
    assert made.comparisons >= {"batched", "padded"}
    (state,) = manifest["stepwise"]["state"]
    start = {"prefill": "past0"} if prefill else {}
    assert state == {
        "name": "past",
        "input": "past",
        "output": "present",
        **start,
        "batch_axis": 0,
        "lengths": {"1": "past"},
        "grows": True,
    }
    assert manifest["lengths"]["past"] == {"max": 96}


class ReturnsElement(Decoder):
    """The same step, which returns the new element of its cache alone."""

    def forward(self, token: Tensor, past: Tensor, mask: Tensor) -> dict[str, Tensor]:
        found = super().forward(token, past, mask)
        return {"logits": found["logits"], "new": found["present"][:, -1:]}


def test_a_step_may_return_the_new_element_of_its_cache_alone() -> None:
    states = {"past": State("new", grows=True, prefill="past0")}
    arguments = cached(ReturnsElement(), prefill=True, states=states)
    forms = stepwise_forms(arguments.pop("module"), arguments.pop("example"), **arguments)
    check_forms(forms)
    differences = prove_forms(forms, forms.module_answers())
    assert {gap.comparison for gap in differences} >= {"batched", "padded", "forced"}
    assert max(gap.largest for gap in differences) < 1e-5
    assert forms.step is not None
    assert forms.step.graph_spec().output_axes["new"] == ("batch", "", "")


class FrameStep(nn.Module):
    """x [batch, 3], h [1, batch, 5] -> y [batch, 5], h_next: one step of a GRU over frames."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.gru = nn.GRU(3, 5, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:
        y, after = self.gru(x[:, None], h)
        return {"y": y[:, 0], "h_next": after}


class FramePrompt(nn.Module):
    """x [batch, frames, 3], lengths [batch] -> y [batch, 5] after the last frame, h0 [1, batch, 5]."""

    def __init__(self, step: FrameStep) -> None:
        super().__init__()
        self.gru = step.gru

    def forward(self, x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        every, _ = self.gru(x)
        last = every[torch.arange(x.shape[0]), lengths - 1]
        return {"y": last, "h0": last[None]}


def frames(**more: Any) -> dict[str, Any]:
    """The arguments of a model whose sequences may begin with a prompt of frames."""
    step = FrameStep()
    prompt = Whole(
        FramePrompt(step),
        {"x": torch.randn(3, 6, 3), "lengths": torch.tensor([6, 2, 4])},
        axes={"x": "batch frames 3", "lengths": "batch"},
        lengths="lengths",
    )
    return {
        "module": step,
        "example": {"x": torch.randn(3, 3), "h": torch.zeros(1, 3, 5)},
        "axes": {"x": "batch 3", "h": "1 batch 5"},
        "states": {"h": State("h_next", prefill="h0")},
        "prefill": prompt,
        "task": Tensors(),
        "longest": 40,
        **more,
    }


def test_a_prompt_of_frames_is_proven_against_steps_and_loads(tmp_path: Path) -> None:
    parity, manifest = export(tmp_path, frames())
    assert {one.comparison for one in parity.differences} >= {"batched", "padded", "forced"}
    assert manifest["prefill"]["inputs"]["x"] == {"batch_axis": 0, "lengths": {"1": "frames"}, "pad": 0}
    assert manifest["prefill"]["outputs"] == {"y": {"batch_axis": 0}, "h0": {"batch_axis": 1}}
    (mode,) = check(tmp_path, "mine")["modes"]
    assert (mode["mode"], mode["batched"], mode["notice"]) == ("stepwise", True, "")


def test_a_translator_carries_its_memory(tmp_path: Path) -> None:
    task = Translate(WORDS, begin=1, end=2, attention="attention", max_tokens=30)
    parity, manifest = export(tmp_path, translating(task=task, tokenizer=WORDS, longest=64))
    assert parity.worst < 1e-5
    assert "forced" not in {gap.comparison for gap in parity.differences}  # a source is no target
    assert manifest["text"] == {"source": "source.json", "target": "target.json", "begin": 1, "end": 2}
    assert manifest["roles"] == {"scores": "logits", "attention": "attention"}
    assert manifest["stepwise"]["max_tokens"] == 30
    assert manifest["stepwise"]["outputs"]["attention"] == {"batch_axis": 0, "lengths": {"1": "source"}}
    assert manifest["stepwise"]["state"][1] == {
        "name": "memory",
        "input": "memory",
        "prefill": "memory",
        "batch_axis": 0,
        "lengths": {"1": "source"},
    }
    assert {path.name for path in (tmp_path / "mine").glob("*.json")} == {"source.json", "target.json"}


class Scores(nn.Module):
    """The scores after each token of a whole text; `shift` reads ahead."""

    def __init__(self, prompt: Prompt, shift: int = 0) -> None:
        super().__init__()
        self.prompt, self.shift = prompt, shift

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        tokens = torch.cat((tokens[:, self.shift :], tokens[:, : self.shift]), dim=1)
        return {"logits": self.prompt.head(self.prompt.cell(self.prompt.embedding(tokens))[0])}


def test_a_one_shot_form_beside_a_step_has_its_results_at_every_position(tmp_path: Path) -> None:
    prompt = Prompt()
    oneshot = Whole(Scores(prompt), TOKENS, axes="batch prompt", ids={"tokens": VOCABULARY})
    parity, manifest = export(tmp_path, prefilled(prompt, oneshot=oneshot, max_rows=8))
    assert "step" in {gap.comparison for gap in parity.differences}
    assert manifest["outputs"]["logits"]["lengths"] == {"1": "prompt"}
    assert manifest["batching"]["max_rows"] == 8
    assert {path.name for path in (tmp_path / "mine/1").iterdir()} >= {
        "model.onnx",
        "prefill.onnx",
        "step.onnx",
    }


def test_exact_results_compare_rows_and_padding_bit_for_bit() -> None:
    arguments = cached(exact=True)
    forms = stepwise_forms(arguments.pop("module"), arguments.pop("example"), **arguments)
    differences = prove_forms(forms, forms.module_answers())
    exact = {gap.comparison: gap.allowed for gap in differences if gap.comparison in ("rows", "length")}
    assert exact == {"rows": 0.0, "length": 0.0}


# --- what is rejected ----------------------------------------------------------------------------------


class ReadsPadding(Prompt):
    """The state after the padding."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        states, last = self.cell(self.embedding(tokens))
        return {"logits": self.head(states[torch.arange(len(tokens)), lengths - 1]), "h0": last}


class Forgets(Decoder):
    """Replaces the cache instead of extending it."""

    def forward(self, token: Tensor, past: Tensor, mask: Tensor) -> dict[str, Tensor]:
        found = super().forward(token, past, mask)
        return {**found, "present": found["present"] * 0.5}


class ReadsPaddedMemory(Target):
    """Attends to the padding of the memory."""

    def forward(self, token: Tensor, h: Tensor, memory: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return super().forward(token, h, memory, mask | ~mask)


def rejected(arguments: dict[str, Any], tmp_path: Path) -> str:
    """The message of an export that fails; nothing is published."""
    with pytest.raises((DescriptionError, ModuleError)) as caught:
        export(tmp_path, arguments)
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


def test_a_prefill_that_reads_the_padding_is_rejected(tmp_path: Path) -> None:
    assert "padding changes results" in rejected(prefilled(ReadsPadding()), tmp_path)


def test_a_prefill_of_other_weights_is_rejected(tmp_path: Path) -> None:
    arguments = prefilled() | {"module": NextToken(Prompt())}
    message = rejected(arguments, tmp_path)
    assert "the step gives other results than the module that reads whole sequences" in message
    assert "forced" in message


def test_a_one_shot_form_that_looks_ahead_is_rejected(tmp_path: Path) -> None:
    prompt = Prompt()
    oneshot = Whole(Scores(prompt, 1), TOKENS, axes="batch prompt", ids={"tokens": VOCABULARY})
    rejection = rejected(prefilled(prompt, oneshot=oneshot, max_rows=1), tmp_path)
    assert "the step gives other results" in rejection


def test_a_cache_that_does_not_keep_its_elements_is_rejected(tmp_path: Path) -> None:
    assert "'present' must be 'past' with one more element at its end" in rejected(
        cached(Forgets()), tmp_path
    )


def test_a_step_that_attends_to_padding_is_rejected(tmp_path: Path) -> None:
    source = Source()
    task = Translate(WORDS, begin=1, end=2)
    arguments = translating(source, task=task, tokenizer=WORDS) | {"module": ReadsPaddedMemory(source)}
    assert "padding changes results" in rejected(arguments, tmp_path)


def test_a_graph_of_other_weights_is_rejected() -> None:
    graph = OnnxGraph(sample_export("cached").folder / "1/step.onnx")
    torch.manual_seed(5)  # another one than that of the export
    other = stepwise_forms(**cached())
    differences = prove_forms(other, {"step.onnx": graph.run})
    with pytest.raises(ParityError, match=r"batched +logits .* DIFFERS"):
        Parity("mine", differences).require()


NO_PREFILL = {name: value for name, value in prefilled().items() if name != "prefill"}
DECLARATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a prompt of tensors that is not answered": (
        frames(prefill=replace(frames()["prefill"], outputs=("h0",))),
        "the prefill returns no 'y' of its last element alone; it returns h0",
    ),
    "a start without a prefill": (NO_PREFILL, "pass prefill=Whole"),
    "a start that the prefill does not return": (
        prefilled(states={"h": State("h_next", prefill="c0")}),
        "the prefill returns no 'c0'",
    ),
    "a start of another shape": (
        prefilled(states={"h": State("h_next", prefill="logits")}),
        "both must have the same axes",
    ),
    "a cache of another length than its prefill": (
        cached(prefill=True, axes={"token": "batch", "past": "batch words 8", "mask": "batch words"}),
        "starts from 'past0' \"batch past 8\" of the prefill; both must have the same axes",
    ),
    "a prefill that starts nothing": (prefilled(states={"h": "h_next"}), "no state starts from it"),
    "a prefill beside a derived step": (
        prefilled(module=Prompt(), example=(TOKENS, LENGTHS), axes=("batch w", "batch"), lengths="lengths")
        | {"states": None},
        "prefill: the module itself reads whole sequences",
    ),
    "a cache along a fixed axis": (
        cached(axes={"token": "batch", "past": "batch 5 8", "mask": "batch 5"}, mask=(), ids={"mask": 2}),
        "name the axis that grows",
    ),
    "a cache without an output": (cached(states={"past": State(grows=True)}), "has no output"),
    "memory without a start": (cached(states={"past": State("present")}), "nothing gives it a size"),
    "an element that varies": (
        cached(states={"mask": State("present", grows=True)}, mask=()),
        "Only a state may vary",
    ),
    "a translator without a prefill": (
        NO_PREFILL | {"states": {"h": "h_next"}, "task": Translate(WORDS, 1, 2), "tokenizer": WORDS},
        "Translate needs prefill",
    ),
    "the longest of an unknown length": (prefilled(longest={"words": 9}), "longest: unknown name 'words'"),
    "a prefill with two inputs": (
        prefilled(prefill=replace(prefilled()["prefill"], lengths=(), ids={"lengths": 9})),
        "prefill: it must take the ids",
    ),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_a_declaration_that_does_not_fit_is_rejected_with_a_remedy(case: str, tmp_path: Path) -> None:
    arguments, message = DECLARATIONS[case]
    assert message in rejected(dict(arguments), tmp_path)


def test_begin_and_end_belong_to_a_tokenizer() -> None:
    arguments = prefilled(task=Generate(begin=1))
    with pytest.raises(DescriptionError, match="begin, end: these ids need a tokenizer"):
        stepwise_forms(arguments.pop("module"), arguments.pop("example"), **arguments)
