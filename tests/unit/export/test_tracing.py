"""What the script tracer freezes: values are an error, sizes are left to the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from torch import Tensor, nn

from lockstep_export import Encode, export_oneshot
from lockstep_export.errors import FrozenError
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.tracing import trace

if TYPE_CHECKING:
    from pathlib import Path


class IfLong(nn.Module):
    """Branches on a size."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[1] - 1 > 0 else x


class IfLarge(nn.Module):
    """Branches on a value, beside a size."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1 if x.shape[1] - 1 > 0 else x
        return -x if x.max() > 3 else x


class AsArray(nn.Module):
    """Computes a constant from a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.detach().numpy().max())


class InPlace(nn.Module):
    """Changes a part of a tensor in place."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0].add_(1)
        return y * 2


class Composite(nn.Module):
    """Has an operator that ONNX expresses by others only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rad2deg(x)


class Views(nn.Module):
    """Operators that are views in PyTorch and nodes in ONNX; `x` is [batch, words]."""

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.stack((1 - x, x.to(torch.float64).float()), dim=-1)[:, :, None]  # [batch, words, 1, 2]
        return torch.cat((pairs.flatten(1, 2).flatten(1), pairs.movedim(3, 1).flatten(2).flatten(1)), dim=1).T


def spec(module: nn.Module) -> GraphSpec:
    return GraphSpec("x.onnx", module, {"x": torch.ones(2, 3)}, {"x": ("batch", "words")}, ("y",))


def test_a_branch_on_a_size_is_traced() -> None:
    assert trace(spec(IfLong()), "script").graph.node


def test_a_branch_on_a_value_is_an_error_that_names_its_line() -> None:
    line = IfLarge.forward.__code__.co_firstlineno + 2
    with pytest.raises(FrozenError, match=rf"test_tracing\.py, line {line}: .*Python boolean"):
        trace(spec(IfLarge()), "script")


def test_a_constant_from_a_value_is_an_error() -> None:
    with pytest.raises(FrozenError, match=r"test_tracing\.py, line \d+"):
        trace(spec(AsArray()), "script")


@pytest.mark.parametrize("module", [InPlace(), Composite(), Views()])
def test_operators_that_onnx_lacks_are_decomposed_or_converted(module: nn.Module, tmp_path: Path) -> None:
    onnx.save(trace(spec(module), "dynamo"), tmp_path / "x.onnx")
    x = torch.arange(20.0).reshape(4, 5)
    assert torch.equal(torch.from_numpy(OnnxGraph(tmp_path / "x.onnx").run({"x": x})["y"]), module(x))


def test_a_t5_encoder_is_exported(tmp_path: Path) -> None:
    """Its code branches on sizes, of which the tracer warns, and only this tracer can follow it."""
    from transformers import T5Config, T5EncoderModel  # takes seconds, which each worker would spend

    config = T5Config(vocab_size=205, d_model=48, d_kv=12, d_ff=96, num_layers=1, num_heads=4)
    model = T5EncoderModel(config)
    ids = torch.randint(1, 205, (3, 7))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    parity = export_oneshot(
        model,
        inputs,
        tmp_path / "t5",
        axes=dict.fromkeys(inputs, "batch tokens"),
        mask="attention_mask",
        outputs="last_hidden_state",
        task=Encode(vector="last_hidden_state", pooling="mean"),
        longest=16,
        report=lambda _: None,
    )
    assert parity.worst < 1e-5
