"""The parts of the demo that need no server: model selection and tables."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest

from lockstep_client import AsyncClient
from lockstep_client.demo import DemoError
from lockstep_client.demo.bursts import LONGEST_WORDS, classify_when_accepted, mixed_texts
from lockstep_client.demo.models import DemoModels, demo_models
from lockstep_client.demo.program import _has_model
from lockstep_client.tables import counted, table

CLASSIFY = 'task = "classify"\n[text]\nsource = "tokenizer.json"\n'
GENERATE, TRANSLATE = CLASSIFY.replace("classify", "generate"), CLASSIFY.replace("classify", "translate")
STEPS, ATTENTION = '[stepwise]\ngraph = "step.onnx"\n', '[roles]\nattention = "attention"\n'


@pytest.fixture
def repository(tmp_path):
    """Make a repository of manifests with fake graphs of 1, 2, ... bytes."""

    def make(**models: str) -> Path:
        for size, (name, manifest) in enumerate(models.items(), start=1):
            folder = tmp_path / name.replace("_", "-")
            (folder / "1").mkdir(parents=True)
            (folder / "model.toml").write_text(manifest)
            (folder / "1" / "model.onnx").write_bytes(bytes(size))
        return tmp_path

    return make


def test_the_shipped_repository_fills_every_part():
    found = demo_models(Path(__file__).parents[3] / "models")
    assert found.featured == ("sentiment-bow", "sentiment-lstm", "sentiment-bilstm", "sentiment-transformer")
    assert found.classifiers[0] == "sentiment-bow"
    assert found.writers[0] == "shakespeare-char-lstm"
    assert found == DemoModels(
        found.classifiers,
        found.writers,
        translator="translate-en-fr",
        stepper="sentiment-lstm",
        transformer="sentiment-transformer",
    )


def test_other_models_replace_missing_shipped_ones(repository):
    folder = repository(
        large=CLASSIFY,
        small=CLASSIFY + STEPS,
        writer=GENERATE,
        interpreter=TRANSLATE,
        looker=CLASSIFY + ATTENTION,
    )
    (folder / "large" / "1" / "model.onnx").write_bytes(bytes(100))
    found = demo_models(folder)
    assert found == DemoModels(("small", "looker", "large"), ("writer",), "interpreter", "small", "looker")
    assert found.featured == found.classifiers


def test_a_part_without_a_model_stays_empty(repository):
    assert demo_models(repository(only=CLASSIFY)) == DemoModels(("only",), (), "", "", "")


def test_an_unreadable_manifest_is_ignored(repository):
    assert demo_models(repository(good=CLASSIFY, bad="task = ")).names == ["good"]


@pytest.mark.parametrize("models", [{}, {"writer": GENERATE}, {"tensors": 'task = "classify"'}])
def test_a_repository_without_a_classifier_is_an_error(repository, models):
    with pytest.raises(DemoError, match="no text classifier"):
        demo_models(repository(**models))


def test_names_are_unique_and_absent_models_are_dropped():
    selected = DemoModels(("a", "b"), ("writer", "poet"), "interpreter", "a", "b")
    assert selected.names == ["a", "b", "writer", "poet", "interpreter"]
    assert selected.without({"a", "writer"}) == DemoModels(("b",), ("poet",), "interpreter", "", "b")


def test_a_part_without_a_model_is_reported(capsys):
    assert _has_model("model", "sings")
    assert not _has_model("", "sings")
    assert capsys.readouterr().out == "\nNo model here sings: skipping this part.\n"


async def test_a_burst_waits_while_the_server_is_overloaded(server, failure):
    server.failures = [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "a slow machine") for _ in range(3)]
    async with AsyncClient(server.address, retries=0) as client:
        [answer] = await classify_when_accepted(client, "sentiment", "a fine film")
    assert answer.best.name == "positive"
    assert len(server.requests) == 4


def test_a_burst_is_the_same_each_time_and_of_every_length():
    texts = mixed_texts(512)
    assert texts == mixed_texts(512)
    assert {len(text.split()) for text in texts} == set(range(1, LONGEST_WORDS + 1))


def test_a_table_in_a_pipe_is_aligned(capsys):
    table(("name", "what", "n"), [("a", "b", "1"), ("long name", "c", "100")], left=2)
    assert capsys.readouterr().out.splitlines() == [
        "name       what    n",
        "a          b       1",
        "long name  c     100",
    ]


@pytest.mark.parametrize("width", [30, 200])
def test_a_table_on_a_terminal_breaks_no_word(capsys, monkeypatch, width):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    table(("sentence", "sentiment-lstm", "n"), [("one two three four five", "positive 50%", "1")])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("sentence", "lstm", "positive", "three", "50%"))
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in shown.splitlines()) <= width


def test_one_has_no_plural() -> None:
    found = [counted(count, "warning") for count in (0, 1, 2, 2000)]
    assert found == ["0 warnings", "1 warning", "2 warnings", "2,000 warnings"]
