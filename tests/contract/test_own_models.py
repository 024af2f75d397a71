"""Exports of user modules on a real server: one-shot, step by step, and generating."""

import shutil
from collections.abc import Iterator
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from integration.harness import Served, serve
from patience import PATIENCE_S
from torch import nn
from unit.export.sample_exports import PROMPTED, RECURRENT, arguments, sample_export
from unit.export.sample_modules import HIDDEN, NextToken

from lockstep_proto.v1 import sequences_pb2 as pb

TEXTS = [[3, 9, 27, 1, 5, 14, 2], [8], [39, 38, 37, 36]]


@pytest.fixture(scope="module")
def modules() -> dict[str, nn.Module]:
    """The modules of the shared exports."""
    return {name: arguments(name)["module"].eval() for name in (*RECURRENT, *PROMPTED)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    for name in (*RECURRENT, *PROMPTED, "language", "step", "second"):
        shutil.copytree(sample_export(name).folder, root / name)
    with serve(root) as started:
        yield started


def infer(
    server: Served, model: str, output: str, sequence: tuple[int, int, int] | None = None, **ids: Any
) -> Any:
    """One output of a request; `sequence` makes it a step: (sequence id, position, number of steps)."""
    request = fakes.request(model, {name: ("INT64", np.array(value)) for name, value in ids.items()})
    if sequence is not None:
        number, position, count = sequence
        request.parameters["sequence_id"].int64_param = number
        request.parameters["sequence_start"].bool_param = position == 0
        request.parameters["sequence_end"].bool_param = position == count - 1
    return fakes.values(server.infer(request), output)


def test_every_model_is_batched_bit_for_bit(server: Served) -> None:
    specs = {name: server.loaded_models.get(name, one).spec for name, one in server.loaded_models.names()}
    assert len(specs) == 2 * len(RECURRENT) + 4 + len(PROMPTED)
    assert [name for name, spec in specs.items() if not spec.batched] == ["second"]
    assert not any(spec.notice for spec in specs.values())  # max_rows = 1 is the author's choice


@pytest.mark.parametrize("name", RECURRENT)
def test_a_derived_step_gives_the_modules_result_for_every_prefix(
    server: Served, modules: dict[str, nn.Module], name: str
) -> None:
    for number, text in enumerate(TEXTS, start=1):
        for position, token in enumerate(text):
            found = infer(server, f"{name}.step", "logits", (number, position, len(text)), tokens=[token])
            prefix = torch.tensor([text[: position + 1]])
            with torch.no_grad():
                expected = modules[name](prefix, torch.tensor([position + 1]))
            assert np.allclose(found, expected.numpy(), atol=1e-5)
        assert np.allclose(infer(server, name, "logits", tokens=[text]), found, atol=1e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_follow_ends_with_the_one_shot_result(server: Served, name: str) -> None:
    (ids,) = [pb.Ids(ids=TEXTS[0])]
    requests = [pb.FollowRequest(start=pb.FollowStart(model=name)), pb.FollowRequest(ids=ids)]
    replies = list(server.sequences.Follow(iter(requests), timeout=PATIENCE_S))
    whole = server.sequences.Classify(pb.ClassifyRequest(model=name, ids=[ids]), timeout=PATIENCE_S).results[
        0
    ]
    assert [reply.computed_elements for reply in replies] == [1] * len(TEXTS[0])
    assert replies[-1].labels[0].name == whole.labels[0].name
    assert replies[-1].labels[0].probability == pytest.approx(whole.labels[0].probability, abs=1e-5)


def test_a_language_model_generates(server: Served) -> None:
    request = pb.GenerateRequest(model="language", ids=pb.Ids(ids=[3, 4]), max_tokens=12, seed=3)
    parts = list(server.sequences.Generate(request, timeout=PATIENCE_S))
    assert sum(len(part.tokens) for part in parts) == 12


@torch.no_grad()
def greedy(module: nn.Module, prompt: list[int], count: int) -> list[int]:
    """The most likely tokens after `prompt`, by single steps in PyTorch."""
    tokens = list(prompt)
    state = torch.zeros(1, 1, HIDDEN) if isinstance(module, NextToken) else torch.zeros(1, 0, HIDDEN)
    for position in range(len(prompt) + count - 1):
        token = torch.tensor(tokens[position : position + 1])
        more = () if isinstance(module, NextToken) else (torch.ones(1, state.shape[1], dtype=torch.bool),)
        found = module(token, state, *more)
        state = found["h_next"] if isinstance(module, NextToken) else found["present"]
        if position + 1 >= len(prompt):
            tokens.append(int(found["logits"].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_and_caches_generate_the_tokens_of_the_module(
    server: Served, modules: dict[str, nn.Module], name: str
) -> None:
    requests = [
        pb.GenerateRequest(model=name, ids=pb.Ids(ids=text), max_tokens=20, temperature=0) for text in TEXTS
    ]
    streams = [server.sequences.Generate(request, timeout=PATIENCE_S) for request in requests]
    for text, stream in zip(TEXTS, streams, strict=True):
        found = [token for part in stream for token in part.tokens]
        assert found == greedy(modules[name], text, 20)


def test_a_step_written_by_its_author_keeps_its_states(server: Served) -> None:
    first = infer(server, "step", "logits", (1, 0, 2), token=[5])
    second = infer(server, "step", "logits", (1, 1, 2), token=[5])
    assert not np.allclose(first, second)
    assert first.shape == (1, 2)


def test_a_module_with_its_batch_axis_second_is_served_with_it_first(server: Served) -> None:
    one, other = (infer(server, "second", "logits", tokens=[text]) for text in (TEXTS[0], TEXTS[2]))
    assert one.shape == other.shape == (1, 2)
