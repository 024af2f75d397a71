"""Training lowers the loss, is reproducible, stops early, and resumes after an interruption."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from unit.zoo.sample_data import classifier

from lockstep_export.errors import NotTrainedError
from lockstep_zoo.checkpoint import Progress, TrainingJob, load_trained
from lockstep_zoo.classify.batches import ClassifierCorpus, EncodedSentences
from lockstep_zoo.classify.training import SentimentTraining, accuracy
from lockstep_zoo.models import ZOO
from lockstep_zoo.recipe import ClassifierRecipe, Training
from lockstep_zoo.train import rate, train

ROWS = EncodedSentences(
    [[2 + label, 4 + index % 5] * (1 + index % 3) for index in range(40) for label in (0, 1)], [0, 1] * 40
)


def recipe(name: str, epochs: int) -> ClassifierRecipe:
    one = classifier(name)
    return replace(one, training=replace(one.training, epochs=epochs, learning_rate=0.05, averaging=0.5))


def job(folder: Path, name: str = "sentiment-bow", epochs: int = 3) -> TrainingJob:
    return TrainingJob(recipe(name, epochs), (12,), "digest", folder / "weights.pt")


def fit(one: TrainingJob, report: Callable[[str], None] = lambda _: None) -> Progress:
    assert isinstance(one.recipe, ClassifierRecipe)
    return train(one, SentimentTraining(one.recipe, ClassifierCorpus(ROWS, ROWS, ROWS)), report)


@pytest.mark.parametrize("name", ["sentiment-bow", "sentiment-rnn", "sentiment-gru", "sentiment-lstm"])
def test_learns_and_keeps_float16_numbers(tmp_path: Path, name: str) -> None:
    lines: list[str] = []
    fit(job(tmp_path, name), lines.append)
    module, progress = load_trained(job(tmp_path, name))
    assert progress.best_quality == accuracy(classifier(name), module, ROWS) == 1.0
    assert all(torch.equal(weight, weight.half().float()) for weight in module.parameters())
    assert "epoch 1/3  loss 0." in lines[0]
    assert "dev 1" in lines[-1]


def test_padding_row_stays_zero(tmp_path: Path) -> None:
    fit(job(tmp_path))
    module, _ = load_trained(job(tmp_path))
    assert not module.get_parameter("votes.weight")[0].any()


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = job(tmp_path / "whole", "sentiment-lstm"), job(tmp_path / "parts", "sentiment-lstm")
    fit(whole)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(parts, interrupt)
    lines: list[str] = []
    fit(parts, lines.append)
    assert "resuming after 1 epochs" in lines[0]
    saved = [torch.load(one.checkpoint)["fit"]["module"] for one in (whole, parts)]
    assert all(torch.equal(weight, saved[1][name]) for name, weight in saved[0].items())


def test_stops_when_dev_no_longer_improves(tmp_path: Path) -> None:
    plan = job(tmp_path, epochs=50)
    progress = fit(plan)
    assert progress.epoch == progress.best_epoch + plan.recipe.training.patience < 50


def other_code(one: TrainingJob) -> TrainingJob:
    return replace(one, recipe=replace(one.recipe, build=ZOO["sentiment-lstm"].build))


def other_tokenizer(one: TrainingJob) -> TrainingJob:
    return replace(one, tokenizers="another")


def test_the_settings_cover_the_code_of_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = job(tmp_path).settings()["code"]
    monkeypatch.setattr(inspect, "getsource", lambda module: f"edited {module.__name__}")
    assert job(tmp_path).settings()["code"] != before


@pytest.mark.parametrize("other", [other_code, other_tokenizer])
def test_weights_of_other_settings_are_not_used(
    tmp_path: Path, other: Callable[[TrainingJob], TrainingJob]
) -> None:
    fit(job(tmp_path))
    with pytest.raises(NotTrainedError, match="run `lockstep-export train sentiment-bow"):
        load_trained(other(job(tmp_path)))


def test_a_rate_is_constant_unless_it_declines() -> None:
    assert [rate(Training(0.1), epoch) for epoch in (0, 3.5, 99)] == [1, 1, 1]


def test_a_declining_rate_rises_for_one_epoch_and_then_falls() -> None:
    plan = Training(0.1, epochs=11, declines=True)
    assert [rate(plan, epoch) for epoch in (0, 0.5, 1)] == [0.01, 0.5, 1]
    assert rate(plan, 6) == pytest.approx(0.51)
    assert rate(plan, 11) == rate(plan, 12) == pytest.approx(0.02)
