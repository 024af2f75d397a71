"""Replaces nn.RNN, nn.GRU and nn.LSTM by ONNX nodes, one for each layer.

dynamo decomposes these layers into a fixed number of steps and cannot follow packed sequences. In a copy of
the module, each layer becomes nodes with `sequence_lens`, to which packing passes the lengths. The copy can
be exported but not run; the graph is compared with the original module.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lockstep_export.axes import ModuleOutput
from lockstep_export.contract import InputContract
from lockstep_export.graph_module import GraphModule
from lockstep_export.packing import Ragged, without_packing
from lockstep_export.recurrent import Kind, OnnxSequence, Packed, States

KINDS: dict[str, Kind] = {"RNN_TANH": "RNN", "RNN_RELU": "RNN", "GRU": "GRU", "LSTM": "LSTM"}


class OnnxRecurrentLayer(OnnxSequence):
    """One layer, optionally with initial states."""

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


class RecurrentReplacement(nn.Module):
    """Stands in for an nn.RNN, nn.GRU or nn.LSTM, with the same attributes."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.mode, self.lstm, self.batch_first = layer.mode, layer.mode == "LSTM", layer.batch_first
        self.input_size, self.hidden_size, self.proj_size = layer.input_size, layer.hidden_size, 0
        self.num_layers, self.bidirectional = layer.num_layers, layer.bidirectional
        self.bias, self.dropout = layer.bias, layer.dropout

    def flatten_parameters(self) -> None:
        """Does nothing: there are no flattened parameters."""


class OnnxRecurrentStack(RecurrentReplacement):
    """All layers of one nn.RNN, nn.GRU or nn.LSTM."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(layer)
        self.layers = nn.ModuleList(
            OnnxRecurrentLayer(single_layer(layer, index), layer.mode) for index in range(layer.num_layers)
        )

    def forward(self, x: Tensor | Ragged, hx: Any = None) -> tuple[Tensor | Ragged, Any]:
        states = x.x if isinstance(x, Ragged) else x.transpose(0, 1) if self.batch_first else x
        initial = () if hx is None else hx if self.lstm else (hx,)
        ends = []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, OnnxRecurrentLayer)
            own = slice(index * layer.directions, (index + 1) * layer.directions)
            lengths = x.lengths if isinstance(x, Ragged) else None
            states, last = layer.sequence(states, lengths, [state[own] for state in initial])
            ends.append(last)
        whole = tuple(torch.cat(parts) for parts in zip(*ends, strict=True))
        last_of_all = whole if self.lstm else whole[0]
        if isinstance(x, Ragged):
            return Ragged(states, x.lengths), last_of_all
        return states.transpose(0, 1) if self.batch_first else states, last_of_all


class NodesGraphModule(GraphModule):
    """A GraphModule whose recurrent layers are ONNX nodes."""

    def __init__(self, module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
        exportable = copy.deepcopy(module)
        for name, layer in recurrent_layers(exportable):
            exportable.set_submodule(name, OnnxRecurrentStack(layer))
        super().__init__(exportable, contract, outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with without_packing(self.module):
            return super().forward(*tensors)


def recurrent_layers(module: nn.Module) -> list[tuple[str, nn.RNNBase]]:
    """The nn.RNN, nn.GRU and nn.LSTM of a module, with their names."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)]


def single_layer(layer: nn.RNNBase, index: int) -> Packed:
    """One layer of a stack as a Packed."""
    directions = 2 if layer.bidirectional else 1
    inputs = layer.input_size if index == 0 else directions * layer.hidden_size
    packed = Packed(KINDS[layer.mode], inputs, layer.hidden_size, layer.bidirectional)
    with torch.no_grad():
        for name, weight in packed.layer.named_parameters():
            own = getattr(layer, name.replace("_l0", f"_l{index}"), None)
            weight.copy_(torch.zeros_like(weight) if own is None else own)
    return packed
