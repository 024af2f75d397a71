"""Modules and declarations that cannot be served are rejected before anything is exported, with a remedy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn import functional
from unit.export.sample_modules import (
    LABELS,
    LENGTHS,
    STEP,
    TOKENS,
    WITH_LENGTHS,
    WITHOUT,
    Careless,
    Language,
    Last,
    Loop,
    MaskedMean,
    Mixing,
    Pooled,
    Reader,
    Step,
)

from lockstep_export import Classify, Encode, Generate, export_oneshot, export_stepwise, forms
from lockstep_export.errors import DescriptionError, ExportError, ModuleError
from lockstep_export.publication import drafting


@pytest.fixture(autouse=True)
def no_export(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Fails if an export is started."""

    def traced(*_: Any) -> None:
        raise AssertionError("an export was started")

    monkeypatch.setattr(forms, "export_onnx", traced)


def rejection(module: nn.Module, example: Any, tmp_path: Path, **options: Any) -> str:
    """The error of an export; nothing is left behind, and the module is not modified."""
    export = export_stepwise if options.pop("stepwise", False) or "states" in options else export_oneshot
    with pytest.raises(ExportError) as caught:
        export(module, example, tmp_path / "mine", **options)
    assert list(tmp_path.iterdir()) == []
    assert module.training
    return f"{type(caught.value).__name__}: {caught.value}"


WORDS = {"axes": "batch words", "report": lambda _: None}


class Counting(nn.Module):
    """Takes integers directly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


FEATURES = {"axes": "batch 4", "report": lambda _: None}
SHORT = Tokenizer(models.WordLevel({str(index): index for index in range(50)}, unk_token="0"))

DECLARATIONS: dict[str, tuple[nn.Module, Any, dict[str, Any], str]] = {
    "an unknown option": (
        Last(),
        TOKENS,
        {**WORDS, "lables": 1},
        "did you mean 'lengths'?|available: task",
    ),
    "an input without axes": (
        Reader(),
        {"tokens": TOKENS, "lengths": LENGTHS},
        {"axes": {"tokens": "batch words"}},
        "axes: missing for 'lengths'",
    ),
    "axes of an unknown input": (
        Last(),
        TOKENS,
        {"axes": {"tokens": "batch words", "x": "batch"}},
        "axes: unknown name 'x'",
    ),
    "a wrong number of axes": (
        Last(),
        TOKENS,
        {"axes": ("batch words", "batch")},
        "axes: 2 given, but the inputs are tokens",
    ),
    "one name for two lengths": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("words batch", "batch"), "lengths": "lengths"},
        "the axis 'batch' has size 5 in 'tokens' and 3",
    ),
    "an example that is no tensor": (Last(), {"tokens": [[1, 2]]}, WORDS, "is list; pass a tensor"),
    "ids of unknown number": (
        Counting(),
        torch.ones(3, 4, dtype=torch.int64),
        FEATURES,
        "declare the number of ids",
    ),
    "lengths that are not declared": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("batch words", "batch")},
        'lengths="lengths"',
    ),
    "a mask without a length": (
        MaskedMean(),
        (TOKENS, TOKENS > 0),
        {"axes": ("batch words", "batch 5"), "mask": "mask"},
        "a mask needs the batch axis and one length",
    ),
    "lengths with two axes": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("batch words", "batch"), "lengths": "tokens"},
        'expected "batch"',
    ),
    "lengths of an unknown input": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("batch words", "batch"), "lengths": "length"},
        "unknown name 'length'",
    ),
    "a wrong number of labels": (
        Last(),
        TOKENS,
        {"axes": "words batch", "task": Classify(["a", "b", "c"])},
        "labels: 3 given, but 'logits' has 2",
    ),
    "scores of an unknown output": (
        Last(),
        TOKENS,
        {"axes": "words batch", "outputs": "y", "task": LABELS},
        "the module returns no 'logits'; it returns y",
    ),
    "a vector of an unknown output": (
        Last(),
        TOKENS,
        {"axes": "words batch", "outputs": "y", "task": Encode("v")},
        "vector: the module returns no 'v'",
    ),
    "too few output names": (
        Last(),
        TOKENS,
        {"axes": "words batch", "outputs": ("a", "b")},
        "returns 1 tensors without names, but 2 names",
    ),
    "a tokenizer of another model": (
        Last(),
        TOKENS,
        {"axes": "words batch", "tokenizer": SHORT},
        "it has 50 ids, but 'tokens' accepts 40",
    ),
    "an unreadable tokenizer": (
        Last(),
        TOKENS,
        {"axes": "words batch", "tokenizer": "nowhere.json"},
        "cannot read nowhere.json",
    ),
    "a tokenizer for numbers": (
        Mixing(),
        torch.ones(3, 4),
        {**FEATURES, "tokenizer": SHORT},
        "a text becomes one input of int64 ids",
    ),
    "begin and end without a tokenizer": (
        Language(),
        TOKENS,
        {**WORDS, "task": Generate(end=2)},
        "begin, end: these ids need a tokenizer",
    ),
    "one-shot generation": (
        Last(),
        TOKENS,
        {"axes": "words batch", "task": Generate()},
        "use export_stepwise",
    ),
    "an example that does not run": (Last(), torch.ones(3, 4), WORDS, "Last fails on tokens \\[3, 4\\]"),
    "states of an unknown input": (
        Step(),
        STEP["example"],
        {**STEP, "example": 0, "states": {"x": "c"}},
        "states: unknown input 'x'",
    ),
    "states with an unknown output": (
        Step(),
        STEP["example"],
        {**STEP, "example": 0, "states": {"h": "y"}},
        "unknown output 'y' for 'h'",
    ),
    "a state that changes its shape": (
        Step(),
        STEP["example"],
        {**STEP, "example": 0, "states": {"h": "logits"}},
        "must have the same shape",
    ),
    "no states": (Step(), STEP["example"], {**STEP, "example": 0, "states": {}}, "states: empty"),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_a_declaration_that_does_not_match_the_module_is_rejected(case: str, tmp_path: Path) -> None:
    module, example, options, message = DECLARATIONS[case]
    options = {name: value for name, value in options.items() if name != "example"}
    export = export_stepwise if "states" in options else export_oneshot
    with pytest.raises(DescriptionError, match=message):
        export(module, example, tmp_path / "mine", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_axis_that_is_second_is_reported_with_the_axes_to_declare(tmp_path: Path) -> None:
    message = rejection(Last(), TOKENS, tmp_path, **WITHOUT)
    assert "the module's batch axis is its second" in message
    assert 'axes={"tokens": "words batch"}' in message


def test_a_second_batch_axis_is_reported_with_one_row_per_batch_too(tmp_path: Path) -> None:
    """Each word would count as a row, and the comparisons would pass."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.recurrence = nn.Embedding(20, 6), nn.GRU(6, 5)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.recurrence(self.embedding(tokens))[0]

    message = rejection(TimeFirst(), TOKENS, tmp_path, axes="batch words", max_rows=1)
    assert "the module's batch axis is its second" in message


def test_a_module_with_a_fixed_size_is_reported(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(40, 6), nn.Linear(6 * TOKENS.shape[1], 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens).flatten(1))

    message = rejection(Flat(), TOKENS, tmp_path, **WORDS)
    assert "accepts only the sizes of its example" in message
    assert "Flat fails on tokens" in message


def test_a_module_that_returns_no_tensor_is_reported_without_a_hint_about_sizes(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 6)

        def forward(self, tokens: torch.Tensor) -> str:
            return str(self.embedding(tokens).shape)

    message = rejection(Words(), TOKENS, tmp_path, **WORDS)
    assert message.startswith("DescriptionError: the module returns a str")


def test_padding_that_changes_probabilities_over_many_words_is_reported(tmp_path: Path) -> None:
    """All of them are smaller than the absolute tolerance."""

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(40, 64), nn.Linear(64, 20_000)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens).mean(1)).softmax(-1)

    assert "padding changes results" in rejection(Many(), TOKENS, tmp_path, **WORDS)


def test_rows_that_affect_each_other_are_reported(tmp_path: Path) -> None:
    message = rejection(Mixing(), torch.randn(3, 4), tmp_path, axes="batch 4")
    assert "rows of a batch affect each other's results" in message
    assert "max_rows=1" in message


def test_scores_for_more_ids_than_the_input_accepts_are_reported(tmp_path: Path) -> None:
    module = Language()
    module.head = nn.Linear(8, 41)
    message = rejection(module, TOKENS, tmp_path, stepwise=True, **WORDS, task=Generate())
    assert "'logits' scores 41 ids, but 'tokens' accepts 40" in message


def test_randomness_in_evaluation_mode_is_reported(tmp_path: Path) -> None:
    message = rejection(Careless(), torch.randn(3, 4), tmp_path, axes="batch 4")
    assert "training=self.training" in message


def test_an_output_without_a_batch_axis_is_reported(tmp_path: Path) -> None:
    message = rejection(Pooled(lambda x: x.mean((0, 1))), TOKENS, tmp_path, **WITHOUT)
    assert "'logits' [2] has no batch axis for 3 rows" in message


def test_a_row_that_is_too_short_or_too_long_is_reported(tmp_path: Path) -> None:
    convolution = nn.Conv1d(8, 8, 4)
    module = Pooled(lambda x: convolution(x.transpose(1, 2)).amax(2))
    assert "does not accept a row of 1 'words'" in rejection(module, TOKENS, tmp_path, **WITHOUT)
    places = nn.Embedding(32, 8)
    module = Pooled(lambda x: (x + places(torch.arange(x.shape[1]))).amax(1))
    message = rejection(module, TOKENS, tmp_path, **WITHOUT)
    assert "does not accept a row of 512 'words'" in message
    assert "longest={'words': …}" in message


@pytest.mark.parametrize("how", [lambda x: x.mean(1), lambda x: x.amax(1), lambda x: x[:, -1]])
def test_padding_that_affects_a_result_is_reported_with_a_table(how: Any, tmp_path: Path) -> None:
    message = rejection(Pooled(how), TOKENS, tmp_path, **WITHOUT)
    title, header, row, *_ = message.split("\n")
    assert title == "ModuleError: Pooled: padding changes results, already in PyTorch"
    assert header.split() == ["comparison", "output", "rows", "largest", "allowed", "at"]
    assert row.split()[:2] == ["padded", "logits"]
    assert "DIFFERS  words " in row
    assert "The module does not know which elements are padding" in message


def test_a_backward_direction_that_starts_in_the_padding_is_reported(tmp_path: Path) -> None:
    message = rejection(Reader(bidirectional=True), (TOKENS, LENGTHS), tmp_path, **WITH_LENGTHS)
    assert "its backward direction starts in the padding" in message
    assert "pack_padded_sequence" in message


class Learnt(Reader):
    """Starts from a learnt state."""

    def __init__(self) -> None:
        super().__init__("GRU")
        self.start = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrence(
            self.embedding(tokens), self.start.expand(1, tokens.shape[0], 8).contiguous()
        )
        return self.head(states[torch.arange(tokens.shape[0]), lengths - 1])


class Twice(Reader):
    """Runs one layer twice."""

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x, _ = self.recurrence(self.embedding(tokens))
        x, _ = self.recurrence(x[:, :, :6])
        return self.head(x[torch.arange(tokens.shape[0]), lengths - 1])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Reader(packed=True, bidirectional=True), "'recurrence' is bidirectional: its backward direction"),
        (Reader(proj_size=4), "proj_size, for which ONNX has no operator"),
        (Loop(), "Loop has no nn.RNN, nn.GRU or nn.LSTM"),
        (Learnt(), "starts from a computed or learnt state"),
        (Twice(), "'recurrence' runs 2 times in one forward"),
    ],
)
def test_a_module_without_a_step_is_reported_with_an_alternative(
    module: nn.Module, message: str, tmp_path: Path
) -> None:
    if isinstance(module, Reader) and module.recurrence.proj_size:
        module.head = nn.Linear(4, 2)
    found = rejection(module, (TOKENS, LENGTHS), tmp_path, stepwise=True, **WITH_LENGTHS)
    assert message in found
    assert "proj_size" in found or "export_oneshot" in found


def test_a_module_that_looks_past_one_element_is_reported_with_the_element(
    tmp_path: Path,
) -> None:
    module = Pooled(lambda x: x.mean(1), recurrent=True)
    message = rejection(module, TOKENS, tmp_path, stepwise=True, max_rows=1, **WITHOUT)
    assert "its own forward, one element at a time, gives different results" in message
    assert "from element 2 on" in message
    assert "attention, a mean or maximum over time" in message


class Echoing(Reader):
    """Adds the state of 16 words ago."""

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrence(self.embedding(tokens))
        states = states + functional.pad(states, (0, 0, 16, 0))[:, : tokens.shape[1]]
        return self.head(states[torch.arange(tokens.shape[0]), lengths - 1])


def test_a_module_that_looks_far_back_is_reported_too(tmp_path: Path) -> None:
    message = rejection(Echoing("GRU"), (TOKENS, LENGTHS), tmp_path, stepwise=True, **WITH_LENGTHS)
    assert "its own forward, one element at a time, gives different results" in message
    assert "from element 18 on" in message


def test_a_folder_without_a_model_name_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="names no model"):
        export_oneshot(MaskedMean(), (TOKENS, TOKENS > 0), Path(".."), axes=("batch words",) * 2, mask="mask")


def test_a_folder_that_cannot_be_written_to_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write into"), drafting(tmp_path / "file" / "mine"):
        pass


def test_a_module_error_is_not_a_description_error() -> None:
    assert not issubclass(ModuleError, DescriptionError)
