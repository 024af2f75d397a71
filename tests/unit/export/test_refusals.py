"""What cannot be served is refused before anything is exported, with what to do about it."""

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

from lockstep_export import Classify, Encode, Generate, export_oneshot, export_stepwise, oneshot, stepwise
from lockstep_export.errors import DescriptionError, ExportError, ModuleError
from lockstep_export.publication import drafting


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No time is spent on an export."""

    def traced(*_: Any) -> None:
        raise AssertionError("it was exported")

    monkeypatch.setattr(oneshot, "export_onnx", traced)
    monkeypatch.setattr(stepwise, "export_onnx", traced)


def refusal(module: nn.Module, example: Any, tmp_path: Path, **said: Any) -> str:
    """What is told; nothing is left behind, and the module is as it was."""
    export = export_stepwise if said.pop("stepwise", False) or "states" in said else export_oneshot
    with pytest.raises(ExportError) as caught:
        export(module, example, tmp_path / "mine", **said)
    assert list(tmp_path.iterdir()) == []
    assert module.training
    return f"{type(caught.value).__name__}: {caught.value}"


WORDS = {"axes": "batch words", "report": lambda _: None}


class Counting(nn.Module):
    """Takes whole numbers as they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


FEATURES = {"axes": "batch 4", "report": lambda _: None}
SHORT = Tokenizer(models.WordLevel({str(index): index for index in range(50)}, unk_token="0"))

SAID: dict[str, tuple[nn.Module, Any, dict[str, Any], str]] = {
    "a word that is not known": (
        Last(),
        TOKENS,
        {**WORDS, "lables": 1},
        "did you mean 'lengths'?|there are task",
    ),
    "no axes of an input": (
        Reader(),
        {"tokens": TOKENS, "lengths": LENGTHS},
        {"axes": {"tokens": "batch words"}},
        "axes: 'lengths' is missing",
    ),
    "axes of no input": (
        Last(),
        TOKENS,
        {"axes": {"tokens": "batch words", "x": "batch"}},
        "axes: there is no 'x'",
    ),
    "another number of axes": (
        Last(),
        TOKENS,
        {"axes": ("batch words", "batch")},
        "axes: there are 2, for the inputs tokens",
    ),
    "one name for two lengths": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("words batch", "batch"), "lengths": "lengths"},
        "the axis 'batch' is 5 in 'tokens' and 3",
    ),
    "no tensor": (Last(), {"tokens": [[1, 2]]}, WORDS, "is list; give a tensor"),
    "ids that nothing tells of": (
        Counting(),
        torch.ones(3, 4, dtype=torch.int64),
        FEATURES,
        "say how many ids",
    ),
    "lengths that were not named": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("batch words", "batch")},
        'lengths="lengths"',
    ),
    "a mask of no length": (
        MaskedMean(),
        (TOKENS, TOKENS > 0),
        {"axes": ("batch words", "batch 5"), "mask": "mask"},
        "a mask has rows and one length",
    ),
    "lengths of two axes": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("batch words", "batch"), "lengths": "tokens"},
        'it needs "batch"',
    ),
    "an input that is not there": (
        Reader(),
        (TOKENS, LENGTHS),
        {"axes": ("batch words", "batch"), "lengths": "length"},
        "there is no 'length'",
    ),
    "another number of labels": (
        Last(),
        TOKENS,
        {"axes": "words batch", "task": Classify(["a", "b", "c"])},
        "labels: there are 3, but 'logits' gives 2",
    ),
    "an output that is not there": (
        Last(),
        TOKENS,
        {"axes": "words batch", "outputs": "y", "task": LABELS},
        "the module gives no 'logits', but y",
    ),
    "a vector that is not there": (
        Last(),
        TOKENS,
        {"axes": "words batch", "outputs": "y", "task": Encode("v")},
        "vector: the module gives no 'v'",
    ),
    "too few names of outputs": (
        Last(),
        TOKENS,
        {"axes": "words batch", "outputs": ("a", "b")},
        "gives 1 tensors without names and there are 2",
    ),
    "a tokenizer of another training": (
        Last(),
        TOKENS,
        {"axes": "words batch", "tokenizer": SHORT},
        "it knows 50 ids and 'tokens' takes 40",
    ),
    "a tokenizer that cannot be read": (
        Last(),
        TOKENS,
        {"axes": "words batch", "tokenizer": "nowhere.json"},
        "nowhere.json cannot be read",
    ),
    "a tokenizer for numbers": (
        Mixing(),
        torch.ones(3, 4),
        {**FEATURES, "tokenizer": SHORT},
        "a text becomes one input of int64 ids",
    ),
    "ends of texts without texts": (
        Language(),
        TOKENS,
        {**WORDS, "task": Generate(end=2)},
        "begin, end: ids of a text, for which there is no tokenizer",
    ),
    "writing at once": (Last(), TOKENS, {"axes": "words batch", "task": Generate()}, "use export_stepwise"),
    "an example that does not run": (Last(), torch.ones(3, 4), WORDS, "Last fails on tokens \\[3, 4\\]"),
    "states that it lacks": (
        Step(),
        STEP["example"],
        {**STEP, "example": 0, "states": {"x": "c"}},
        "takes no 'x'",
    ),
    "a successor that it lacks": (
        Step(),
        STEP["example"],
        {**STEP, "example": 0, "states": {"h": "y"}},
        "gives no 'y' to follow 'h'",
    ),
    "a successor of another shape": (
        Step(),
        STEP["example"],
        {**STEP, "example": 0, "states": {"h": "logits"}},
        "must be what the next one takes",
    ),
    "no states": (Step(), STEP["example"], {**STEP, "example": 0, "states": {}}, "name what is carried"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_does_not_fit_the_module_is_told(case: str, tmp_path: Path) -> None:
    module, example, said, told = SAID[case]
    said = {name: value for name, value in said.items() if name != "example"}
    export = export_stepwise if "states" in said else export_oneshot
    with pytest.raises(DescriptionError, match=told):
        export(module, example, tmp_path / "mine", **said)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_axis_that_is_the_second_is_told_with_the_axes_to_write(tmp_path: Path) -> None:
    told = refusal(Last(), TOKENS, tmp_path, **WITHOUT)
    assert "the module's batch axis is its second" in told
    assert 'axes={"tokens": "words batch"}' in told


def test_a_second_batch_axis_is_told_where_rows_are_served_alone_too(tmp_path: Path) -> None:
    """There each word would count as a row, and the module agrees with itself."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.recurrence = nn.Embedding(20, 6), nn.GRU(6, 5)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.recurrence(self.embedding(tokens))[0]  # type: ignore[no-any-return]

    told = refusal(TimeFirst(), TOKENS, tmp_path, axes="batch words", max_rows=1)
    assert "the module's batch axis is its second" in told


def test_a_module_of_one_size_is_told_so(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(40, 6), nn.Linear(6 * TOKENS.shape[1], 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens).flatten(1))  # type: ignore[no-any-return]

    told = refusal(Flat(), TOKENS, tmp_path, **WORDS)
    assert "the sizes of its example and no others" in told
    assert "Flat fails on tokens" in told


def test_a_module_that_gives_no_tensor_is_told_that_and_nothing_of_sizes(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 6)

        def forward(self, tokens: torch.Tensor) -> str:
            return str(self.embedding(tokens).shape)

    told = refusal(Words(), TOKENS, tmp_path, **WORDS)
    assert told.startswith("DescriptionError: the module gives a str")


def test_padding_that_changes_probabilities_of_many_words_is_told(tmp_path: Path) -> None:
    """All of them are below what may differ where values are near 1."""

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(40, 64), nn.Linear(64, 20_000)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens).mean(1)).softmax(-1)  # type: ignore[no-any-return]

    assert "padding changes answers" in refusal(Many(), TOKENS, tmp_path, **WORDS)


def test_rows_that_change_one_another_are_told(tmp_path: Path) -> None:
    told = refusal(Mixing(), torch.randn(3, 4), tmp_path, axes="batch 4")
    assert "the rows of a batch change one another's answers" in told
    assert "max_rows=1" in told


def test_what_could_be_written_and_not_read_is_told(tmp_path: Path) -> None:
    module = Language()
    module.head = nn.Linear(8, 41)
    told = refusal(module, TOKENS, tmp_path, stepwise=True, **WORDS, task=Generate())
    assert "'logits' scores 41 ids, and 'tokens' takes 40" in told


def test_chance_in_evaluation_is_told(tmp_path: Path) -> None:
    told = refusal(Careless(), torch.randn(3, 4), tmp_path, axes="batch 4")
    assert "training=self.training" in told


def test_an_answer_without_rows_is_told(tmp_path: Path) -> None:
    told = refusal(Pooled(lambda x: x.mean((0, 1))), TOKENS, tmp_path, **WITHOUT)
    assert "'logits' [2] has no axis of rows for 3 rows" in told


def test_a_row_that_is_too_short_or_too_long_is_told(tmp_path: Path) -> None:
    convolution = nn.Conv1d(8, 8, 4)
    module = Pooled(lambda x: convolution(x.transpose(1, 2)).amax(2))
    assert "does not take a row of 1 'words'" in refusal(module, TOKENS, tmp_path, **WITHOUT)
    places = nn.Embedding(32, 8)
    module = Pooled(lambda x: (x + places(torch.arange(x.shape[1]))).amax(1))
    told = refusal(module, TOKENS, tmp_path, **WITHOUT)
    assert "does not take a row of 512 'words'" in told
    assert "longest={'words': …}" in told


@pytest.mark.parametrize("how", [lambda x: x.mean(1), lambda x: x.amax(1), lambda x: x[:, -1]])
def test_padding_that_reaches_an_answer_is_told_with_a_table(how: Any, tmp_path: Path) -> None:
    told = refusal(Pooled(how), TOKENS, tmp_path, **WITHOUT)
    title, header, row, *_ = told.split("\n")
    assert title == "ModuleError: Pooled: padding changes answers, in PyTorch already"
    assert header.split() == ["comparison", "output", "rows", "largest", "allowed", "at"]
    assert row.split()[:2] == ["padded", "logits"]
    assert "DIFFERS  words " in row
    assert "The module is not told what is padding" in told


def test_a_backward_direction_that_starts_in_the_padding_is_told(tmp_path: Path) -> None:
    told = refusal(Reader(bidirectional=True), (TOKENS, LENGTHS), tmp_path, **WITH_LENGTHS)
    assert "a backward direction that starts in the padding" in told
    assert "pack_padded_sequence" in told


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
    """Reads with one layer twice."""

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x, _ = self.recurrence(self.embedding(tokens))
        x, _ = self.recurrence(x[:, :, :6])
        return self.head(x[torch.arange(tokens.shape[0]), lengths - 1])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("module", "told"),
    [
        (Reader(packed=True, bidirectional=True), "'recurrence' is bidirectional: its backward direction"),
        (Reader(proj_size=4), "proj_size, for which ONNX has no operator"),
        (Loop(), "Loop has no nn.RNN, nn.GRU or nn.LSTM"),
        (Learnt(), "starts from a state that the module computes or has learnt"),
        (Twice(), "'recurrence' runs 2 times in one forward"),
    ],
)
def test_a_module_that_has_no_step_is_told_what_to_do_instead(
    module: nn.Module, told: str, tmp_path: Path
) -> None:
    if isinstance(module, Reader) and module.recurrence.proj_size:
        module.head = nn.Linear(4, 2)
    found = refusal(module, (TOKENS, LENGTHS), tmp_path, stepwise=True, **WITH_LENGTHS)
    assert told in found
    assert "proj_size" in found or "export_oneshot" in found


def test_what_looks_past_an_element_is_told_with_the_element_where_it_shows(tmp_path: Path) -> None:
    module = Pooled(lambda x: x.mean(1), recurrent=True)
    told = refusal(module, TOKENS, tmp_path, stepwise=True, max_rows=1, **WITHOUT)
    assert "its own forward, one element at a time, answers otherwise" in told
    assert "from element 2 on" in told
    assert "attention, a mean or maximum over time" in told


class Echoing(Reader):
    """Adds the state of 16 words ago."""

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrence(self.embedding(tokens))
        states = states + functional.pad(states, (0, 0, 16, 0))[:, : tokens.shape[1]]
        return self.head(states[torch.arange(tokens.shape[0]), lengths - 1])


def test_what_looks_far_past_an_element_is_told_too(tmp_path: Path) -> None:
    told = refusal(Echoing("GRU"), (TOKENS, LENGTHS), tmp_path, stepwise=True, **WITH_LENGTHS)
    assert "its own forward, one element at a time, answers otherwise" in told
    assert "from element 18 on" in told


def test_a_folder_that_names_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="names no model"):
        export_oneshot(MaskedMean(), (TOKENS, TOKENS > 0), Path(".."), axes=("batch words",) * 2, mask="mask")


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write into"), drafting(tmp_path / "file" / "mine"):
        pass


def test_a_module_error_is_no_description_error() -> None:
    assert not issubclass(ModuleError, DescriptionError)
