"""A bar on a terminal, and not a byte anywhere else."""

import pytest

from lockstep_zoo.progress import terminal_progress


def test_shows_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_progress("a-model  epoch 1/2") as watch:
        watch(0.5, 0.7)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_shows_how_far_it_is_and_the_loss(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes that for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with terminal_progress("a-model  epoch 1/2") as watch:
        watch(0.5, 0.7)
    assert "a-model  epoch 1/2  loss 0.700" in capsys.readouterr().err
