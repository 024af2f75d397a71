"""Runs the commands of docs/bring-your-model.md, in order, on the stock exports of tests/stock."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contract.page_runner import PageRunner, output
from unit.export.adopt.graphs import streaming_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs/bring-your-model.md"
STOCK = Path(__file__).parents[1] / "stock"
ADOPTED = "batched answers equal those of each request alone"


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageRunner]:
    runner = PageRunner(tmp_path_factory.mktemp("page"))
    for folder in STOCK.glob("*/"):
        shutil.copytree(folder, runner.folder / folder.name)
    streaming_encoder(runner.folder / "streaming-encoder.onnx")
    try:
        runner.follow(PAGE.read_text(encoding="utf-8"))
        yield runner
    finally:
        runner.close()


def test_each_model_of_the_page_is_adopted_with_nothing_to_ask(followed: PageRunner) -> None:
    reports = {line: text for line, text in followed.outputs.items() if line.startswith("lockstep-export")}
    assert len(reports) == 6
    for command, text in reports.items():
        assert text.splitlines()[-1] == f"{command.split()[-1]}/1: adopted"
        assert ADOPTED in text or "share steps" in text or "marian" in command
        assert "Not decided" not in text


def test_the_report_in_the_page_is_the_one_that_is_printed(followed: PageRunner) -> None:
    (shown,) = re.findall(r"```text\n(  task .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    printed = {
        re.sub(r" +", " ", line) for line in output(followed, "lockstep-export adopt gpt2").splitlines()
    }
    assert {re.sub(r" +", " ", line) for line in shown.splitlines()} <= printed


def test_each_kind_answers(followed: PageRunner) -> None:
    assert output(followed, "lockstep generate").strip()
    assert output(followed, "lockstep translate").strip()
    assert output(followed, "lockstep classify --model").split("\t")[0] in ("negative", "neutral", "positive")
    assert len(output(followed, "lockstep classify-tokens").splitlines()) == len("menbitedogs")
    assert len(output(followed, "lockstep encode").splitlines()) == 2


def test_the_models_of_the_table_are_those_that_are_compared() -> None:
    table = PAGE.read_text(encoding="utf-8").split("## What adopts unmodified")[1]
    named = re.findall(r"\*\*(\S+)\*\*", table)
    folders = {folder.name.split("-")[0] for folder in STOCK.glob("*/") if folder.name != "sentence-encoder"}
    assert {name.lower().replace("-", "") for name in named} == folders
