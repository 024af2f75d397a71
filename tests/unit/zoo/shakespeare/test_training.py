"""Streams continue where the last stretch ended, and training lowers the loss."""

from dataclasses import replace
from pathlib import Path

import torch
from unit.zoo.sample_data import PLAY, language_model

from lockstep_zoo.checkpoint import TrainingJob
from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.shakespeare.tokenizer import character_tokenizer
from lockstep_zoo.shakespeare.training import NextCharacterTraining, ShakespeareCorpus, stretches
from lockstep_zoo.train import train

TOKENIZER = character_tokenizer(PLAY)
TEXT = torch.tensor(TOKENIZER.encode(PLAY * 20).ids)
CORPUS = ShakespeareCorpus(TEXT, TEXT[:300], TEXT[:300])


def recipe(epochs: int) -> LanguageModelRecipe:
    plan = replace(language_model().training, epochs=epochs, rows=4, averaging=0.5, declines=False)
    return replace(language_model(), training=plan, stretch=20)


def test_each_stretch_continues_the_last() -> None:
    parts = list(stretches(torch.arange(31), rows=3, length=4))
    assert torch.cat([part.tokens for part in parts], dim=1).tolist() == torch.arange(30).view(3, 10).tolist()
    assert all(torch.equal(part.following, part.tokens + 1) for part in parts)
    assert [part.first for part in parts] == [True, False, False]


def test_an_epoch_has_count_batches() -> None:
    training_task = NextCharacterTraining(recipe(1), CORPUS)
    batches = list(training_task.batches(torch.Generator()))
    assert len(batches) == training_task.count() > 1
    assert {tuple(batch.tokens.shape) for batch in batches} == {(4, 20)}


def test_learns(tmp_path: Path) -> None:
    job = TrainingJob(recipe(3), (TOKENIZER.get_vocab_size(),), "digest", tmp_path / "weights.pt")
    lines: list[str] = []
    train(job, NextCharacterTraining(recipe(3), CORPUS), lines.append)
    assert "nats per character" in lines[0]
    dev = [float(line.split("dev ")[1].split()[0]) for line in lines]
    assert dev[-1] < dev[0]
