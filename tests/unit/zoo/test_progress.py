"""A progress bar on a terminal, and no output elsewhere."""

import pytest

from lockstep_zoo.progress import terminal_progress


def test_shows_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_progress("a-model  epoch 1/2") as update:
        update(0.5, 0.7)
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "")


def test_shows_the_progress_and_the_loss(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich treats this as a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with terminal_progress("a-model  epoch 1/2") as update:
        update(0.5, 0.7)
    assert "a-model  epoch 1/2  loss 0.700" in capsys.readouterr().err
