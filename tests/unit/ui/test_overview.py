"""The share of padding that the view Models shows, by form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lockstep_ui.overview import padding


def run(model: str, kind: str, share: float) -> Any:
    return SimpleNamespace(model=model, version="1", kind=kind, padding=share)


def test_runs_are_counted_by_their_form_and_share_of_padding() -> None:
    runs = [
        *(run("a", "ONE_SHOT", share) for share in (0.0, 0.05, 0.1, 0.11, 0.5, 0.51, 0.99)),
        run("a", "CLIENT_STEP", 0.25),
        run("writer", "PREFILL", 0.0),
        run("writer", "STEP", 1.0),
    ]
    assert padding(runs, {"a", "a.step", "writer"}) == {
        "a 1": [1, 2, 1, 1, 2],
        "a.step 1": [0, 0, 1, 0, 0],
        "writer 1": [1, 0, 0, 0, 1],
    }
