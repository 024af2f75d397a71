"""Training learns, repeats, stops, and goes on where it was interrupted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lockstep_export.batches import Encoded, by_length, inputs_for, shuffled
from lockstep_export.errors import NotTrainedError
from lockstep_export.train import Job, accuracy, load_trained, loss_of, predicted, train
from lockstep_export.zoo import ZOO

ROWS = Encoded(
    [[2 + label, 4 + index % 5] * (1 + index % 3) for index in range(40) for label in (0, 1)], [0, 1] * 40
)


def job(folder: Path, name: str = "sentiment-bow", epochs: int = 3) -> Job:
    recipe = ZOO[name]
    training = replace(recipe.training, epochs=epochs, learning_rate=0.05, averaging=0.5)
    return Job(replace(recipe, training=training), 12, "digest", folder / "weights.pt")


@pytest.mark.parametrize("name", ["sentiment-bow", "sentiment-lstm"])
def test_learns_and_keeps_float16_numbers(tmp_path: Path, name: str) -> None:
    lines: list[str] = []
    train(job(tmp_path, name), ROWS, ROWS, lines.append)
    module, progress = load_trained(job(tmp_path, name))
    assert progress.best_accuracy == accuracy(ZOO[name], module, ROWS) == 1.0
    assert all(torch.equal(weight, weight.half().float()) for weight in module.parameters())
    assert "epoch 1/3  loss 0." in lines[0]
    assert "dev 1" in lines[-1]


def test_padding_row_stays_zero(tmp_path: Path) -> None:
    train(job(tmp_path), ROWS, ROWS, lambda _: None)
    module, _ = load_trained(job(tmp_path))
    assert not module.get_parameter("votes.weight")[0].any()


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = job(tmp_path / "whole", "sentiment-lstm"), job(tmp_path / "parts", "sentiment-lstm")
    train(whole, ROWS, ROWS, lambda _: None)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parts, ROWS, ROWS, interrupt)
    lines: list[str] = []
    train(parts, ROWS, ROWS, lines.append)
    assert "1 epochs were done before" in lines[0]
    saved = [torch.load(one.checkpoint)["fit"]["module"] for one in (whole, parts)]
    assert all(torch.equal(weight, saved[1][name]) for name, weight in saved[0].items())


def test_stops_when_dev_no_longer_rises(tmp_path: Path) -> None:
    plan = job(tmp_path, epochs=50)
    progress = train(plan, ROWS, ROWS, lambda _: None)
    assert progress.epoch == progress.best_epoch + plan.recipe.training.patience < 50


def other_code(one: Job) -> Job:
    return replace(one, recipe=replace(one.recipe, build=ZOO["sentiment-lstm"].build))


def other_tokenizer(one: Job) -> Job:
    return replace(one, tokenizer="another")


@pytest.mark.parametrize("other", [other_code, other_tokenizer])
def test_weights_of_other_settings_are_not_used(tmp_path: Path, other: Callable[[Job], Job]) -> None:
    train(job(tmp_path), ROWS, ROWS, lambda _: None)
    with pytest.raises(NotTrainedError, match="run `lockstep-export train sentiment-bow"):
        load_trained(other(job(tmp_path)))


def test_one_logit_and_two_agree() -> None:
    logit, labels = torch.tensor([[1.5], [-0.5]]), torch.tensor([1, 0])
    both = torch.cat((torch.zeros(2, 1), logit), dim=1)
    assert torch.allclose(loss_of(logit, labels), loss_of(both, labels))
    assert predicted(logit).tolist() == predicted(both).tolist() == [1, 0]


def test_batches_cover_every_sentence_once() -> None:
    chance = torch.Generator().manual_seed(0)
    for batches in (by_length(ROWS, 7), shuffled(ROWS, 7, chance)):
        assert sorted(index for batch in batches for index in batch) == list(range(80))


def test_inputs_are_padded_with_their_companion() -> None:
    lengths = inputs_for(ZOO["sentiment-lstm"], [[5], [6, 7]], extra=1)
    assert lengths["tokens"].tolist() == [[5, 0, 0], [6, 7, 0]]
    assert lengths["lengths"].tolist() == [1, 2]
    mask = inputs_for(ZOO["sentiment-transformer"], [[5], [6, 7]])
    assert mask["mask"].tolist() == [[True, False], [True, True]]
    assert list(inputs_for(ZOO["sentiment-bow"], [[5]])) == ["tokens"]
