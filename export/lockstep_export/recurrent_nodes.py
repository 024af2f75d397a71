"""Whole sequences through nn.RNN, nn.GRU and nn.LSTM as ONNX has them: a node for each layer.

dynamo takes these layers apart and freezes their time, and cannot follow packed sequences. In a copy of the
module that is to be traced, each layer becomes nodes with `sequence_lens`, and packing passes the lengths on
to them. The copy can be exported and not run; what comes out is proven against the module itself.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lockstep_export.contract import InputContract
from lockstep_export.graph_module import GraphModule, ModuleOutput
from lockstep_export.packing import Ragged, packed_as_they_are
from lockstep_export.recurrent import Kind, OnnxSequence, Packed, States

KINDS: dict[str, Kind] = {"RNN_TANH": "RNN", "RNN_RELU": "RNN", "GRU": "GRU", "LSTM": "LSTM"}


class Node(OnnxSequence):
    """One layer, from given states where there are some."""

    def __init__(self, layer: Packed, mode: str) -> None:
        super().__init__(layer)
        self.relu = mode == "RNN_RELU"

    def sequence(self, x: Tensor, lengths: Tensor | None, initial: Sequence[Tensor]) -> tuple[Tensor, States]:
        """x [words, batch, inputs] → states [words, batch, directions × hidden], the last real ones."""
        words, batch = x.shape[0], x.shape[1]
        state, ends = (self.directions, batch, self.hidden), 2 if self.kind == "LSTM" else 1
        counts = None if lengths is None else lengths.to(torch.int32)
        more = {"activations": ["Relu"] * self.directions} if self.relu else {}
        states, *last = torch.onnx.ops.symbolic_multi_out(
            self.kind,
            (x, self.w, self.r, self.b, counts, *initial),
            {**self._attributes(), **more},
            dtypes=(x.dtype,) * (1 + ends),
            shapes=((words, *state), *(state,) * ends),
        )
        return states.transpose(1, 2).flatten(2), tuple(last)


class Twin(nn.Module):
    """Stands where an nn.RNN, nn.GRU or nn.LSTM did, and tells of itself what that told."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.mode, self.lstm, self.batch_first = layer.mode, layer.mode == "LSTM", layer.batch_first
        self.input_size, self.hidden_size, self.proj_size = layer.input_size, layer.hidden_size, 0
        self.num_layers, self.bidirectional = layer.num_layers, layer.bidirectional
        self.bias, self.dropout = layer.bias, layer.dropout

    def flatten_parameters(self) -> None:
        """Its parameters lie as they lie."""


class Nodes(Twin):
    """All layers of one nn.RNN, nn.GRU or nn.LSTM."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(layer)
        self.layers = nn.ModuleList(
            Node(single(layer, index), layer.mode) for index in range(layer.num_layers)
        )

    def forward(self, x: Tensor | Ragged, hx: Any = None) -> tuple[Tensor | Ragged, Any]:
        states = x.x if isinstance(x, Ragged) else x.transpose(0, 1) if self.batch_first else x
        given = () if hx is None else hx if self.lstm else (hx,)
        ends = []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Node)
            own = slice(index * layer.directions, (index + 1) * layer.directions)
            lengths = x.lengths if isinstance(x, Ragged) else None
            states, last = layer.sequence(states, lengths, [state[own] for state in given])
            ends.append(last)
        whole = tuple(torch.cat(parts) for parts in zip(*ends, strict=True))
        last_of_all = whole if self.lstm else whole[0]
        if isinstance(x, Ragged):
            return Ragged(states, x.lengths), last_of_all
        return states.transpose(0, 1) if self.batch_first else states, last_of_all


class NodesGraphModule(GraphModule):
    """A face whose recurrent layers are nodes."""

    def __init__(self, module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
        twin = copy.deepcopy(module)
        for name, layer in recurrent(twin):
            twin.set_submodule(name, Nodes(layer))
        super().__init__(twin, contract, outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with packed_as_they_are(self.module):
            return super().forward(*tensors)


def recurrent(module: nn.Module) -> list[tuple[str, nn.RNNBase]]:
    """The nn.RNN, nn.GRU and nn.LSTM of a module, by their names in it."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)]


def single(layer: nn.RNNBase, index: int) -> Packed:
    """One layer of a stack by itself."""
    directions = 2 if layer.bidirectional else 1
    inputs = layer.input_size if index == 0 else directions * layer.hidden_size
    alone = Packed(KINDS[layer.mode], inputs, layer.hidden_size, layer.bidirectional)
    with torch.no_grad():
        for name, weight in alone.layer.named_parameters():
            own = getattr(layer, name.replace("_l0", f"_l{index}"), None)
            weight.copy_(torch.zeros_like(weight) if own is None else own)
    return alone
