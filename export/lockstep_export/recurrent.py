"""Recurrent layers over padded batches and step by step, for PyTorch and for ONNX.

`Packed` is the layer for training: time-major x [words, batch, inputs] with lengths [batch] in, every state
[words, batch, directions × hidden] (zero in the padding) and the last real state [directions, batch, hidden]
out. The forward direction ends, and the backward one starts, at the last real word of each row.

For export there are two forms with the same weights, in ONNX's order of gates:

    OnnxSequence   the whole sequence as one ONNX node with `sequence_lens`, which torch's tracer cannot
                   write because it cannot follow packed sequences
    Cell           one element of the forward direction as plain products and gates: for one element they
                   are faster than the node, and the bits of a row do not depend on the batch
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Kind = Literal["RNN", "GRU", "LSTM"]
States = tuple[Tensor, ...]  # h, and for an LSTM c: each [directions, batch, hidden]

# Position of ONNX's gates in torch's order. torch: reset, update, new · input, forget, cell, output
ONNX_GATES: dict[Kind, tuple[int, ...]] = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}


class Packed(nn.Module):
    """One recurrent layer; each gate has its own W, R and b, and torch keeps b in two parts.

    RNN    h_t = tanh(W x_t + R h_{t-1} + b)
    GRU    r, z = σ(W x_t + R h_{t-1} + b)   n = tanh(W x_t + b + r·(R h_{t-1} + b'))
           h_t = z·h_{t-1} + (1 − z)·n       (r weighs R h, not h: the form that fused kernels compute)
    LSTM   i, f, o = σ(W x_t + R h_{t-1} + b)   g = tanh(W x_t + R h_{t-1} + b)
           c_t = f·c_{t-1} + i·g                h_t = o·tanh(c_t)
    """

    def __init__(self, kind: Kind, inputs: int, hidden: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.kind = kind
        layer = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}[kind]
        self.layer = layer(inputs, hidden, bidirectional=bidirectional)

    def forward(self, x: Tensor, lengths: Tensor, initial: States = ()) -> tuple[Tensor, States]:
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        start = (initial if self.kind == "LSTM" else initial[0]) if initial else None
        states, last = self.layer(packed, start)
        ends = last if self.kind == "LSTM" else (last,)
        return pad_packed_sequence(states, total_length=x.shape[0])[0], ends


class OnnxSequence(nn.Module):
    """A whole sequence as one ONNX node; it can be exported but not run."""

    w: Tensor  # [directions, gates × hidden, inputs]
    r: Tensor  # [directions, gates × hidden, hidden]
    b: Tensor  # [directions, 2 × gates × hidden]

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.kind, self.hidden = packed.kind, packed.layer.hidden_size
        self.directions = 2 if packed.layer.bidirectional else 1
        parts = [weights(packed, suffix) for suffix in ("", "_reverse")[: self.directions]]
        for name, tensors in zip("wrb", zip(*parts, strict=True), strict=True):
            self.register_buffer(name, torch.stack(tensors))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, States]:
        words, batch = x.shape[0], x.shape[1]
        state = (self.directions, batch, self.hidden)
        ends = 2 if self.kind == "LSTM" else 1
        states, *last = torch.onnx.ops.symbolic_multi_out(
            self.kind,
            (x, self.w, self.r, self.b, lengths.to(torch.int32)),
            self._attributes(),
            dtypes=(x.dtype,) * (1 + ends),
            shapes=((words, *state), *(state,) * ends),
        )
        return states.transpose(1, 2).flatten(2), tuple(last)

    def _attributes(self) -> dict[str, Any]:
        direction = "bidirectional" if self.directions == 2 else "forward"
        reset = {"linear_before_reset": 1} if self.kind == "GRU" else {}
        return {"hidden_size": self.hidden, "direction": direction, **reset}


class Cell(nn.Module):
    """One element of one layer: W x + b and the states [batch, hidden] in, the next states out."""

    w: Tensor  # [gates × hidden, inputs]
    r: Tensor  # [gates × hidden, hidden]
    b: Tensor  # [2 × gates × hidden]

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.kind = packed.kind
        for name, tensor in zip("wrb", weights(packed), strict=True):
            self.register_buffer(name, tensor)

    def project(self, x: Tensor) -> Tensor:
        """W x + b [rows, gates × hidden] of x [rows, inputs]. For a whole embedding it is a constant that
        ONNX Runtime computes once, when it loads the graph."""
        return functional.linear(x, self.w, self.b.chunk(2)[0])

    def forward(self, projected: Tensor, states: States) -> States:
        kept = functional.linear(states[0], self.r, self.b.chunk(2)[1])
        return {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}[self.kind](projected, kept, states)


def _rnn(x: Tensor, kept: Tensor, _: States) -> States:
    return (torch.tanh(x + kept),)


def _gru(x: Tensor, kept: Tensor, states: States) -> States:
    (update, reset, new), (k_update, k_reset, k_new) = x.chunk(3, dim=1), kept.chunk(3, dim=1)
    z, r = torch.sigmoid(update + k_update), torch.sigmoid(reset + k_reset)
    return (z * states[0] + (1 - z) * torch.tanh(new + r * k_new),)


def _lstm(x: Tensor, kept: Tensor, states: States) -> States:
    i, o, f, g = (x + kept).chunk(4, dim=1)
    cell = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def weights(packed: Packed, suffix: str = "") -> tuple[Tensor, Tensor, Tensor]:
    """W, R and b of one direction in ONNX's order of gates; b holds the input's biases, then the state's."""

    def gates(name: str) -> Tensor:
        order = ONNX_GATES[packed.kind]
        parts = getattr(packed.layer, f"{name}_l0{suffix}").detach().chunk(len(order))
        return torch.cat([parts[gate] for gate in order])

    return gates("weight_ih"), gates("weight_hh"), torch.cat((gates("bias_ih"), gates("bias_hh")))
