"""Recurrence over ragged batches, once for PyTorch and once for ONNX.

Both layers take time-major x [words, batch, inputs] with lengths [batch] and give every state
[words, batch, directions × hidden] (zero in the padding) and the last real state [directions, batch, hidden].
The forward direction ends, and the backward one starts, at each row's own last word.

`PackedLSTM` is what trains. `OnnxLSTM` is its twin for export: torch's tracer cannot follow packed sequences,
so it places the ONNX LSTM node itself, with `sequence_lens`, and with the weights in ONNX's gate order.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ONNX_GATES = (0, 3, 1, 2)  # torch stacks input, forget, cell, output; ONNX input, output, forget, cell


class PackedLSTM(nn.Module):
    """One LSTM layer.

    i, f, o = σ(W x_t + R h_{t-1} + b)   g = tanh(W x_t + R h_{t-1} + b), each with its own W, R, b
    c_t = f·c_{t-1} + i·g                h_t = o·tanh(c_t)
    """

    def __init__(self, inputs: int, hidden: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, bidirectional=bidirectional)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        return pad_packed_sequence(states, total_length=x.shape[0])[0], last


class OnnxLSTM(nn.Module):
    """The same layer as one ONNX node; it can be exported and not run."""

    w: Tensor  # [directions, 4 × hidden, inputs]
    r: Tensor  # [directions, 4 × hidden, hidden]
    b: Tensor  # [directions, 8 × hidden]

    def __init__(self, layer: PackedLSTM) -> None:
        super().__init__()
        lstm = layer.lstm
        self.hidden = lstm.hidden_size
        self.directions = 2 if lstm.bidirectional else 1
        suffixes = ("", "_reverse")[: self.directions]
        self.register_buffer("w", torch.stack([_gates(lstm, "weight_ih_l0" + s) for s in suffixes]))
        self.register_buffer("r", torch.stack([_gates(lstm, "weight_hh_l0" + s) for s in suffixes]))
        self.register_buffer("b", torch.stack([_biases(lstm, s) for s in suffixes]))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        words, batch = x.shape[0], x.shape[1]
        states, last = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (x, self.w, self.r, self.b, lengths.to(torch.int32)),
            {"hidden_size": self.hidden, "direction": "bidirectional" if self.directions == 2 else "forward"},
            dtypes=(x.dtype, x.dtype),
            shapes=((words, self.directions, batch, self.hidden), (self.directions, batch, self.hidden)),
        )
        return states.transpose(1, 2).flatten(2), last


def with_onnx_recurrence(module: nn.Module) -> nn.Module:
    """A copy of `module`, ready for export: each PackedLSTM has become its ONNX twin."""
    twin = copy.deepcopy(module).eval()
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, PackedLSTM):
            twin.set_submodule(name, OnnxLSTM(layer))
    return twin


def _gates(lstm: nn.LSTM, name: str) -> Tensor:
    """[4 × hidden, …] in torch's gate order → the same in ONNX's."""
    gates = getattr(lstm, name).detach().chunk(4)
    return torch.cat([gates[gate] for gate in ONNX_GATES])


def _biases(lstm: nn.LSTM, suffix: str) -> Tensor:
    """[8 × hidden]: the input's bias, then the state's."""
    return torch.cat([_gates(lstm, "bias_ih_l0" + suffix), _gates(lstm, "bias_hh_l0" + suffix)])
