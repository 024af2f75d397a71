"""The files in the repository are complete, consistent, and correct when batched, padded and stepped."""

import json
import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest
from tokenizers import Tokenizer
from torch import from_numpy
from unit.zoo.sample_data import (
    CLASSIFIERS,
    SHAKESPEARE,
    TRANSLATOR,
    WRITERS,
    classifier,
    language_model,
    translation,
)

from lockstep_export.forms import ONESHOT
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_zoo.classify.batches import inputs_for
from lockstep_zoo.classify.pairs import table
from lockstep_zoo.classify.training import predicted
from lockstep_zoo.language.task import run_steps
from lockstep_zoo.model_card import model_card
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import Pipeline, graphs_in, task_of
from lockstep_zoo.recipe import ClassifierRecipe
from lockstep_zoo.scores import page, read_record
from lockstep_zoo.translate.greedy import Exported, translate
from lockstep_zoo.translate.tokenizer import decode, encode

MODELS = Path(__file__).parents[3] / "models"
HARD = "I can't say it's bad!"
RECORD = json.loads((MODELS / "accuracy.json").read_text(encoding="utf-8"))
LEAST = {"accuracy": 0.75, "BLEU": 45.0}
MOST = {"bits per character": 2.4, "bits per word": 4.7}
LARGEST, LARGEST_TRANSLATOR = 40e6, 10e6  # bytes
PLACES = ("ground", "sidewalk", "floor", "beach", "street", "grass", "bench", "couch", "edge", "side")


def manifest_of(name: str) -> dict[str, Any]:
    return tomllib.loads((MODELS / name / "model.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ZOO)
def test_the_graphs_agree_with_themselves(name: str, tmp_path: Path) -> None:
    Pipeline(MODELS, tmp_path, lambda _: None).check(name)


@pytest.mark.parametrize("name", ZOO)
def test_the_manifest_matches_the_recipe(name: str) -> None:
    text = Pipeline(MODELS, MODELS, lambda _: None).forms(name).manifest()
    first = (MODELS / name / "model.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first == text.splitlines()[0]
    assert manifest_of(name) == tomllib.loads(text)


@pytest.mark.parametrize("name", ZOO)
def test_the_manifest_names_the_inputs_and_outputs_of_the_graphs(name: str) -> None:
    parsed = manifest_of(name)
    for section in (parsed | {"graph": ONESHOT}, parsed.get("prefill"), parsed.get("stepwise")):
        if section and "inputs" in section:
            graph = onnx.load(MODELS / name / "1" / section["graph"], load_external_data=False).graph
            states = section.get("state", [])
            inputs = {*section["inputs"], *(state["input"] for state in states)}
            outputs = {*section["outputs"], *(state["output"] for state in states if "output" in state)}
            assert inputs == {value.name for value in graph.input}
            assert outputs == {value.name for value in graph.output}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_share_one_tokenizer(name: str) -> None:
    tokenizer = Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    assert tokenizer.to_str() == (MODELS / "sentiment-bow" / "tokenizer.json").read_text(encoding="utf-8")
    assert tokenizer.encode(HARD).tokens == ["i", "ca", "n't", "say", "it", "'s", "bad", "!"]
    assert manifest_of(name)["inputs"]["tokens"]["range"] == [0, tokenizer.get_vocab_size()]


def test_the_record_matches_the_shipped_files() -> None:
    page = (MODELS / "README.md").read_text(encoding="utf-8")
    for score in RECORD["models"]:
        files = list((MODELS / score["model"] / "1").iterdir())
        assert score["bytes"] == sum(file.stat().st_size for file in files)
        assert f"`{score['model']}`" in page
    assert [score["model"] for score in RECORD["models"]] == list(ZOO)


def test_the_record_is_good_enough() -> None:
    for score in RECORD["models"]:
        measure = score["measure"]
        assert score["test"] >= LEAST[measure] if measure in LEAST else score["test"] <= MOST[measure]


def test_the_shipped_files_stay_small() -> None:
    sizes = {path: path.stat().st_size for path in MODELS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < LARGEST
    assert sum(size for path, size in sizes.items() if TRANSLATOR in path.parts) < LARGEST_TRANSLATOR


def is_positive(name: str, text: str) -> bool:
    """Whether the shipped model classifies `text` as positive."""
    ids = Tokenizer.from_file(str(MODELS / name / "tokenizer.json")).encode(text).ids
    logits = OnnxGraph(MODELS / name / "1" / ONESHOT).run(inputs_for(classifier(name), [ids]))["logits"]
    return bool(predicted(from_numpy(logits))[0])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_clear_praise_and_clear_criticism(name: str) -> None:
    assert is_positive(name, "A moving, beautifully acted and very funny film.")
    assert not is_positive(name, "A dull, pointless and badly written mess of a movie.")


def most_likely(name: str, prompt: str) -> str:
    """The text of the most likely token after `prompt`."""
    tokenizer = Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    step = graphs_in(MODELS / name / "1")["step.onnx"]
    last = run_steps(language_model(name), step, tokenizer.encode(prompt).ids)
    return tokenizer.decode([int(last["logits"][0].argmax())])


def test_the_character_model_completes_a_word() -> None:
    assert most_likely(SHAKESPEARE, "First Citize") == "n"


@pytest.mark.parametrize("name", [name for name in WRITERS if name.startswith("captions-")])
def test_the_word_models_continue_a_caption(name: str) -> None:
    assert most_likely(name, "A man is sitting on the") in {f" {place}" for place in PLACES}
    assert most_likely(name, "two dogs are running through the") in {" grass", " snow", " water", " field"}


def test_every_model_card_matches_the_record() -> None:
    record, pipeline = read_record(MODELS), Pipeline(MODELS, MODELS, lambda _: None)
    for name, score in record.scores.items():
        text = model_card(ZOO[name], score, pipeline.manifest(name), pipeline.version(name))
        assert (MODELS / name / "README.md").read_text(encoding="utf-8") == text


def test_the_readme_matches_the_record() -> None:
    classifiers = {name: recipe for name, recipe in ZOO.items() if isinstance(recipe, ClassifierRecipe)}
    text = page(read_record(MODELS), table(classifiers, MODELS))
    assert (MODELS / "README.md").read_text(encoding="utf-8") == text


def test_the_translator_translates() -> None:
    source, target = task_of(translation()).load(MODELS / TRANSLATOR)
    graphs = graphs_in(MODELS / TRANSLATOR / "1")
    exported = Exported(graphs["prefill.onnx"], graphs["step.onnx"])
    texts = ["A man is sleeping.", "Two dogs are playing in the snow."]
    written = decode(target, translate(exported, encode(source, texts, 60), 60))
    assert written == ["Un homme dort.", "Deux chiens jouent dans la neige."]
