"""Outputs that do not fit the role that a task gives them are rejected before anything is exported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lockstep_export import (
    Classify,
    ClassifyTokens,
    Encode,
    Transcribe,
    export_oneshot,
    export_stepwise,
    forms,
)
from lockstep_export.errors import DescriptionError, ExportError, ModuleError

LABELS = ["O", "PER", "LOC"]
TOKENS = torch.randint(1, 20, (2, 5))


class Tagger(nn.Module):
    """Scores or vectors for each word, or their first one; `odd` is added to the first number."""

    def __init__(self, *, first: bool = False, odd: float = 0.0) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.first, self.odd = first, torch.tensor([odd, 0.0, 0.0])

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.head(self.embedding(tokens)) + self.odd
        return scores[:, 0] if self.first else scores


@pytest.fixture(autouse=True)
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an export is started."""

    def traced(*_: Any) -> None:
        raise AssertionError("an export was started")

    monkeypatch.setattr(forms, "export_onnx", traced)


NAN, INF = float("nan"), float("inf")
REJECTED: dict[str, tuple[Tagger, Any, type[ExportError], str]] = {
    "scores of each word": (Tagger(), Classify(LABELS), DescriptionError, "task=ClassifyTokens(labels)"),
    "scores of the text": (
        Tagger(first=True),
        ClassifyTokens(LABELS),
        DescriptionError,
        "[batch, words, labels]",
    ),
    "two labels": (Tagger(), ClassifyTokens(LABELS[:2]), DescriptionError, "labels: 2 given"),
    "a blank of no label": (Tagger(), Transcribe(LABELS, blank=9), DescriptionError, "blank: 9 is no index"),
    "two labels of frames": (Tagger(), Transcribe(LABELS[:2]), DescriptionError, "labels: 2 given"),
    "no labels": (Tagger(first=True), Classify([]), DescriptionError, "name each score"),
    "labels without names": (Tagger(first=True), Classify([0, 1, 2]), DescriptionError, "name each score"),  # type: ignore[list-item]
    "a label of each letter": (Tagger(first=True), Classify("abc"), DescriptionError, "name each score"),
    "an empty label": (Tagger(), ClassifyTokens(["O", "", "LOC"]), DescriptionError, "name each score"),
    "a vector of each word": (Tagger(), Encode("vector"), DescriptionError, 'pooling="mean"'),
    "pooling of one vector": (Tagger(first=True), Encode(pooling="mean"), DescriptionError, "omit pooling"),
    "an unknown pooling": (Tagger(), Encode(pooling="sum"), DescriptionError, "'sum' is unknown"),  # type: ignore[arg-type]
    "scores of NaN": (Tagger(first=True, odd=NAN), Classify(LABELS), ModuleError, "NaN or infinite"),
    "an infinite score": (Tagger(odd=INF), ClassifyTokens(LABELS), ModuleError, "NaN or infinite"),
    "an infinite vector": (Tagger(first=True, odd=-INF), Encode(), ModuleError, "NaN or infinite"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_an_output_that_does_not_fit_its_role_is_rejected(case: str, tmp_path: Path) -> None:
    module, task, kind, message = REJECTED[case]
    with pytest.raises(kind) as caught:
        export_oneshot(module, TOKENS, tmp_path / "mine", axes="batch words", task=task)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tagger_has_no_steps(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="use export_oneshot"):
        export_stepwise(Tagger(), TOKENS, tmp_path / "mine", axes="batch words", task=ClassifyTokens(LABELS))


@pytest.mark.parametrize("pad", [0.5, NAN, 2.0**70])
def test_padding_that_the_input_cannot_hold_is_rejected(pad: float, tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="cannot hold"):
        export_oneshot(Tagger(), TOKENS, tmp_path / "mine", axes="batch words", pad=pad)
