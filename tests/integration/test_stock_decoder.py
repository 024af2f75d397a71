"""A stock decoder, one graph with caches for prompts and steps, generates what PyTorch generates."""

from __future__ import annotations

import random
import re
import shutil
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import stock_decoder
from integration.harness import REPOSITORY, Served, serve
from made_once import made_once
from patience import PATIENCE_S

from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKENS = 24
_PROMPT_LENGTHS = (1, 2, 3, 5, 7, 8, 11, 13, 15, 16, 17, 21, 24, 31, 32, 40)


@pytest.fixture(scope="module")
def decoder() -> stock_decoder.DecoderModel:
    return stock_decoder.DecoderModel()


@pytest.fixture(scope="module")
def server(decoder: stock_decoder.DecoderModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    made = made_once("stock-decoder", lambda folder: stock_decoder.export(decoder, folder / "model.onnx"))
    for name, file, prefill in (("stock", "model.onnx", True), ("no-prefill", "step.onnx", False)):
        (root / name / "1").mkdir(parents=True)
        shutil.copy(made / "model.onnx", root / name / "1" / file)
        (root / name / "model.toml").write_text(stock_decoder.manifest(file, prefill=prefill))
    (root / "merged" / "1").mkdir(parents=True)
    shutil.copy(made / "model.onnx", root / "merged" / "1")
    stock_decoder.merge(root / "merged" / "1" / "model.onnx")
    branch = "[{section}.inputs.use_cache_branch]\nvalue = {value}\n"
    sections = {"prefill": "false", "stepwise": "true"}.items()
    (root / "merged" / "model.toml").write_text(
        stock_decoder.manifest()
        + "".join(branch.format(section=section, value=value) for section, value in sections)
    )
    with serve(root, engine="process") as started:
        yield started


def test_the_manifest_in_the_docs_is_the_one_that_is_served() -> None:
    """With the numbers of GPT-2, its tokenizer, and the first of its caches."""
    page = (REPOSITORY.parent / "docs" / "serve-your-own.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    documented, served = tomllib.loads(block), tomllib.loads(stock_decoder.manifest())
    assert documented.pop("text") == {"source": "tokenizer.json", "end": 50256}
    assert documented["lengths"]["past"].pop("max") == 1024
    del served["lengths"]["past"]["max"]
    for graph in ("prefill", "stepwise"):
        assert documented[graph]["inputs"]["input_ids"].pop("range") == [0, 50257]
        del served[graph]["inputs"]["input_ids"]["range"]
    served["stepwise"]["state"] = served["stepwise"]["state"][:1]
    assert documented == served


def prompts() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(stock_decoder.VOCABULARY) for _ in range(length)] for length in _PROMPT_LENGTHS]


@pytest.fixture(scope="module")
def expected(decoder: stock_decoder.DecoderModel) -> list[list[int]]:
    return [stock_decoder.generate(decoder, prompt, _TOKENS) for prompt in prompts()]


def generate(server: Served, model: str, prompt: list[int], max_tokens: int = _TOKENS) -> pb.GenerateReply:
    """All messages as one."""
    request = pb.GenerateRequest(model=model, ids=pb.Ids(ids=prompt), temperature=0, max_tokens=max_tokens)
    whole = pb.GenerateReply()
    for reply in server.sequences.Generate(request, timeout=PATIENCE_S):
        whole.MergeFrom(reply)
    return whole


@pytest.mark.parametrize("model", ["stock", "no-prefill", "merged"])
def test_each_prompt_alone_and_all_together_continue_as_in_pytorch(
    server: Served, expected: list[list[int]], model: str
) -> None:
    alone = [list(generate(server, model, prompt).tokens) for prompt in prompts()]
    assert alone == expected
    with ThreadPoolExecutor(len(prompts())) as pool:
        together = list(pool.map(lambda prompt: generate(server, model, prompt), prompts()))
    assert [list(reply.tokens) for reply in together] == expected
    assert max(reply.timings.batch_rows for reply in together) > 1


@pytest.mark.parametrize("model", ["stock", "no-prefill", "merged"])
def test_the_self_test_has_nothing_to_report(server: Served, model: str) -> None:
    served = server.app.registry.get(model, 1)
    assert served is not None
    assert (served.spec.notice, served.spec.batched, served.spec.unpadded) == ("", True, ())


@pytest.mark.parametrize("model", ["stock", "no-prefill", "merged"])
@pytest.mark.parametrize("length", [50, 63, 64])
def test_a_text_ends_when_the_cache_is_full(
    server: Served, decoder: stock_decoder.DecoderModel, model: str, length: int
) -> None:
    """The cache holds 64 elements; the scores of the last one give one token more."""
    prompt = [7 * index % stock_decoder.VOCABULARY for index in range(length)]
    reply = generate(server, model, prompt, 100)
    assert reply.reason == pb.STOP_REASON_LENGTH
    assert list(reply.tokens) == stock_decoder.generate(decoder, prompt, 65 - length)
