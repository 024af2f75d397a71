"""Targets are the next words, with and without a begin token; training lowers the loss."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from unit.zoo.sample_data import PAIRS, forms, language_model

from lockstep_export.onnx import export_onnx
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.step_module import STEP
from lockstep_zoo.captions.task import bits, unknown
from lockstep_zoo.captions.tokenizer import encode, word_tokenizer
from lockstep_zoo.captions.training import CaptionsCorpus, NextWordTraining, batch_of, mean_loss
from lockstep_zoo.checkpoint import TrainingJob, load_trained
from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.train import train

TEXTS = [pair[0] for pair in PAIRS]
TOKENIZER = word_tokenizer(TEXTS)
ROWS = encode(TOKENIZER, TEXTS * 8)
CORPUS = CaptionsCorpus(ROWS, ROWS[:8], ROWS[:8])
CAPTION_WRITERS = ("captions-next-word-lstm", "captions-context-cnn")  # one of either kind


def recipe(name: str, epochs: int) -> LanguageModelRecipe:
    plan = replace(
        language_model(name).training, epochs=epochs, rows=4, averaging=0.5, declines=False, bfloat16=False
    )
    return replace(language_model(name), training=plan)


def test_a_batch_with_begin_tokens() -> None:
    batch = batch_of([[5, 6, 7], [8]])
    assert batch.tokens.tolist() == [[1, 5, 6, 7], [1, 8, 0, 0]]
    assert batch.following.tolist() == [[5, 6, 7, 1], [8, 1, 0, 0]]
    assert batch.lengths.tolist() == [4, 2]


def test_a_batch_without_begin_tokens() -> None:
    batch = batch_of([[5, 6, 7], [8]], with_begin=False)
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.following.tolist() == [[6, 7, 1], [1, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]


def test_an_epoch_reads_every_caption_once() -> None:
    training_task = NextWordTraining(recipe("captions-next-word", 1), CORPUS)
    batches = list(training_task.batches(torch.Generator().manual_seed(1)))
    assert len(batches) == training_task.count()
    assert sum(len(batch.lengths) for batch in batches) == len(ROWS)


@pytest.mark.parametrize("name", CAPTION_WRITERS)
def test_learns_and_its_step_graph_gives_the_same_figure(tmp_path: Path, name: str) -> None:
    one = recipe(name, 4)
    job = TrainingJob(one, (TOKENIZER.get_vocab_size(),), "digest", tmp_path / "weights.pt")
    lines: list[str] = []
    train(job, NextWordTraining(one, CORPUS), lines.append)
    dev = [float(line.split("dev ")[1].split()[0]) for line in lines]
    assert dev[-1] < dev[0]
    module, _ = load_trained(job)
    graphs = forms(one, module, TOKENIZER.get_vocab_size()).graph_specs("dynamo")
    export_onnx([graph for graph in graphs if graph.file == STEP], tmp_path)
    nats = mean_loss(module, CORPUS.dev)
    assert bits(one, OnnxGraph(tmp_path / STEP), CORPUS.dev) == pytest.approx(nats / 0.693147, rel=1e-4)


def test_unknown_words_are_counted() -> None:
    assert unknown([[0, 5, 6], [7]]) == 0.25
