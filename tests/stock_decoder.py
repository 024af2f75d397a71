"""A decoder-only Transformer with the interface of stock exports of GPT-2 and its kin: caches in, caches out.

`DecoderModel` in PyTorch → `export` → one ONNX graph for prompts and steps; `generate` is the reference.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LAYERS, HEADS, WIDTH, VOCABULARY, LONGEST = 2, 4, 32, 41, 64
HEAD = WIDTH // HEADS

_STATE = """
[[stepwise.state]]
name = "{name}"
input = "past_key_values.{name}"
output = "present.{name}"
prefill = "present.{name}"
lengths = {{2 = "past"}}
grows = true
"""

MANIFEST = """
task = "generate"
[lengths.past]
max = 64
[roles]
input = "input_ids"
scores = "logits"
[prefill]
graph = "{graph}"
[prefill.inputs.input_ids]
batch_axis = 0
lengths = {{1 = "past"}}
range = [0, 41]
[prefill.inputs.attention_mask]
batch_axis = 0
lengths = {{1 = "past"}}
generated = "mask"
of = "past"
[prefill.inputs.position_ids]
batch_axis = 0
lengths = {{1 = "past"}}
generated = "positions"
of = "past"
[prefill.outputs.logits]
batch_axis = 0
lengths = {{1 = "past"}}
[stepwise]
graph = "{graph}"
max_sequences = 32
[stepwise.inputs.input_ids]
batch_axis = 0
range = [0, 41]
[stepwise.inputs.attention_mask]
batch_axis = 0
generated = "mask"
of = "past"
new = true
[stepwise.inputs.position_ids]
batch_axis = 0
generated = "positions"
of = "past"
[stepwise.outputs.logits]
batch_axis = 0
"""

NAMES = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]


def manifest(graph: str = "model.onnx", *, prefill: bool = True) -> str:
    """The manifest; without `prefill`, prompts go through steps."""
    text = MANIFEST.format(graph=graph) + "".join(_STATE.format(name=name) for name in NAMES)
    if prefill:
        return text
    start, end = text.index("[prefill]"), text.index("[stepwise]")
    return "\n".join(
        line for line in (text[:start] + text[end:]).splitlines() if not line.startswith("prefill =")
    )


class Layer(nn.Module):
    """Masked self-attention over the cache and the new elements, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Any, allowed: Any, past_key: Any, past_value: Any) -> tuple[Any, Any, Any]:
        """x [batch, sequence, 32], caches [batch, 4, past, 8] -> x, caches with the new elements."""
        batch, sequence = x.shape[0], x.shape[1]
        parts = self.attention(self.before(x)).reshape(batch, sequence, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        key, value = torch.cat([past_key, parts[1]], 2), torch.cat([past_value, parts[2]], 2)
        energy = (parts[0] @ key.transpose(2, 3)) * HEAD**-0.5
        weights = torch.where(allowed, energy, -1e9).softmax(-1)
        found = (weights @ value).transpose(1, 2).reshape(batch, sequence, WIDTH)
        x = x + self.joined(found)
        return x + self.narrow(nn.functional.gelu(self.wide(self.between(x)))), key, value


class DecoderModel(nn.Module):
    """Two layers with random, fixed weights."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(2)  # so that greedy texts do not repeat one id

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> tuple[Any, ...]:
        """ids and positions [batch, sequence], mask [batch, past + sequence] -> logits of every position,
        caches with the new elements."""
        x = self.words(input_ids) + self.places(position_ids)
        before, total = past[0].shape[2], attention_mask.shape[1]
        queries = before + torch.arange(input_ids.shape[1])
        causal = torch.arange(total)[None, :] <= queries[:, None]
        allowed = causal[None, None] & (attention_mask[:, None, None, :] > 0)
        present = []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(x, allowed, past[2 * index], past[2 * index + 1])
            present += [key, value]
        return self.head(self.last(x)), *present


def generate(model: DecoderModel, prompt: Sequence[int], count: int) -> list[int]:
    """The greedy continuation of one prompt, computed from the whole sequence for each token."""
    ids = list(prompt)
    empty = [torch.zeros(1, HEADS, 0, HEAD)] * (2 * LAYERS)
    with torch.no_grad():
        for _ in range(count):
            whole = torch.tensor([ids])
            logits = model(whole, torch.ones_like(whole), torch.arange(len(ids))[None], *empty)[0]
            ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def export(model: DecoderModel, file: Path) -> None:
    """Write the graph, as the ecosystem's exporters do: PyTorch's own, with dynamic axes."""
    batch, sequence, past = 2, 3, 5
    caches = [torch.randn(batch, HEADS, past, HEAD) for _ in NAMES]
    ids = torch.randint(0, VOCABULARY, (batch, sequence))
    mask, positions = torch.ones(batch, past + sequence, dtype=torch.int64), past + torch.arange(sequence)
    dynamic = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        torch.onnx.export(
            model.eval(),
            (ids, mask, positions.expand(batch, -1), *caches),
            str(file),
            input_names=[
                "input_ids",
                "attention_mask",
                "position_ids",
                *(f"past_key_values.{name}" for name in NAMES),
            ],
            output_names=["logits", *(f"present.{name}" for name in NAMES)],
            dynamic_shapes=(
                *({0: dynamic, 1: dynamic},) * 3,
                tuple({0: dynamic, 2: dynamic} for _ in caches),
            ),
            external_data=False,
            verbose=False,
        )


def merge(file: Path) -> None:
    """Give the graph the input of a merged decoder, `use_cache_branch` [1]. It must say whether there is a
    cache, else the scores are wrong."""
    model = onnx.load(file)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    )
    for node in model.graph.node:
        node.output[:] = ["right" if name == "logits" else name for name in node.output]
    make = onnx.helper.make_node
    model.graph.node.extend(
        [
            make("Shape", ["past_key_values.0.key"], ["past_size"], start=2, end=3),
            make("Cast", ["past_size"], ["has_past"], to=onnx.TensorProto.BOOL),
            make("Equal", ["use_cache_branch", "has_past"], ["as_said"]),
            make("Neg", ["right"], ["wrong"]),
            make("Where", ["as_said", "right", "wrong"], ["logits"]),
        ]
    )
    onnx.save(model, file)
