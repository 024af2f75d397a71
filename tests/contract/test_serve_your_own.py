"""Writes the files of docs/serve-your-own.md and runs its commands, in order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from contract.page_runner import BLOCK, PageRunner, output

from lockstep_client import Client

PAGE = Path(__file__).parents[2] / "docs/serve-your-own.md"


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageRunner]:
    runner = PageRunner(tmp_path_factory.mktemp("page"))
    try:
        runner.follow(PAGE.read_text(encoding="utf-8"))
        yield runner
    finally:
        runner.close()


def test_all_blocks_of_the_page_run(followed: PageRunner) -> None:
    assert "models/reviews/1: parity holds" in output(followed, "python reviews.py")
    files = {str(path.relative_to(followed.folder)) for path in followed.folder.glob("models/reviews/**/*.*")}
    listed, *_ = [block for language, block in BLOCK.findall(PAGE.read_text()) if language == "text"]
    assert files == {line.split()[0] for line in listed.splitlines()}


def test_texts_are_classified_one_shot_and_word_by_word(followed: PageRunner) -> None:
    fine, dull = output(followed, "lockstep classify --model reviews").splitlines()
    assert fine.split("\t")[0] == "positive"
    assert dull.split("\t")[0] == "negative"
    assert len(output(followed, "lockstep follow --model reviews").splitlines()) == 6


def test_a_variant_is_reported_with_its_original(followed: PageRunner) -> None:
    first, *graphs = output(followed, "lockstep-export variant").splitlines()
    assert first.startswith("models/reviews-int8/1: ")
    assert [line.split()[0] for line in graphs] == ["model.onnx", "step.onnx"]


def test_a_text_is_generated(followed: PageRunner) -> None:
    text = output(followed, "lockstep generate --model letters")
    assert len(text.rstrip("\n")) == 30
    assert "not to be" in text


def test_a_decoder_with_a_prefill_and_a_cache_generates(followed: PageRunner) -> None:
    assert len(output(followed, "lockstep generate --model decoder").rstrip("\n")) == 20
    assert (followed.folder / "models/decoder/1/prefill.onnx").is_file()


def test_a_written_step_keeps_its_state(followed: PageRunner) -> None:
    last = output(followed, "python ask_average.py").splitlines()[-1]
    assert last == "[[3. 3. 3.]]"


def test_an_encoder_gives_batched_texts_their_unbatched_vectors(followed: PageRunner) -> None:
    lines = output(followed, "lockstep encode --model encoder").splitlines()
    vectors = [[float(number) for number in line.split("\t")[0].split()] for line in lines]
    assert [len(vector) for vector in vectors] == [32, 32]
    texts = ["a fine film", "a dull plot", "fine", "a film , a fine film , a dull plot"] * 3
    with Client(f"localhost:{followed.port}") as client:
        (served,) = [model for model in client.models() if model.name == "encoder"]
        batched = client.encode("encoder", texts)
        for text, one in zip(texts, batched, strict=True):
            (unbatched,) = client.encode("encoder", text)
            assert np.allclose(one.vector, unbatched.vector, atol=1e-5)
            assert np.isclose(np.linalg.norm(one.vector), 1, atol=1e-5)
    assert served.state == "READY"
    assert np.allclose(vectors[0], batched[0].vector, rtol=1e-4, atol=1e-5)


def test_a_tagger_labels_words_at_their_places(followed: PageRunner) -> None:
    rows = [line.split("\t") for line in output(followed, "lockstep classify-tokens").splitlines()]
    assert [(row[0], row[3]) for row in rows] == [
        ("0:3", "Ada"), ("4:12", "Lovelace"), ("13:18", "lives"), ("19:21", "in"), ("22:27", "Paris")
    ]  # fmt: skip
    assert all(row[1] in ("O", "B-PER", "I-PER", "B-LOC", "I-LOC") for row in rows)
