"""The graph that samples next tokens on a device: nodes for `small_graphs.model`.

scores [rows, tokens] → the largest is 0 → by temperature → weights → top-k and top-p → sums → tokens

It computes what `sampler.sample` does. The exponential of a device differs from numpy's in the last bits, and
so does a sum in another order. So it answers only in rows whose token is the same for all numbers this close:
what is drawn is not within `_APART` of the edge between two tokens, and no score is so near to the last one
kept that they could change places. In the other rows, the token is -1.

Sums are taken in parts of `_PART` scores, as CumSum of ONNX Runtime adds up anew for each element on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.small_graphs import ELEMENT_TYPES, Node, model

if TYPE_CHECKING:
    from collections.abc import Sequence

_APART = 2.0**-18
"""Of the sum of a row's weights. Two exponentials in float32, each wrong by up to 4 units in the last place,
differ by 2**-20 at most; so do sums of them, and the share of a sum that is drawn."""

_NEAR = 2.0**-19
"""Scores by temperature that are this close may have weights in any order."""

_PART = 256

RANKED = 1024
"""The tokens that top-k and top-p are looked for in. A row that keeps more is left to the host."""

COLUMNS = {"inverse": "FP32", "floor": "FP32", "added": "FP64"}
"""Inputs [rows, 1] that change with the sequences: 1 / temperature, or 1 if greedy; the least score by
temperature that is kept, 0 if greedy, else -inf; 0.5 if greedy, else 0."""

CUTS = {"cut": "BOOL", "has_k": "BOOL", "last_k": "INT64", "top_p": "FP64"}
"""Further ones if a row has top-k or top-p: has either; has top-k; the last rank that top-k keeps, else the
last of all; top-p, else 2."""


def sampling_graph(datatype: str, time: tuple[int, int] | None, tokens: int, *, cuts: bool) -> bytes:
    """The model with the inputs `scores`, `u` [rows, 1] (FP64, 0 if greedy) and the columns, and the output
    `token` [rows, 1].

    Args:
        datatype: of the scores.
        time: the axis of positions of scores that have one, and the position that counts.
        tokens: the number of scores of a row.
        cuts: rows may have top-k or top-p.
    """
    graph = _Graph()
    scores = graph.rows_of_scores(datatype, time)
    scaled = graph("Mul", graph("Sub", scores, graph("ReduceMax", scores, axes=[1])), "inverse")
    floor, certain = graph.floor(scaled, min(RANKED, tokens), tokens) if cuts else ("floor", "")
    kept = graph("Not", graph("Less", scaled, floor))  # NaN too, so that no token of its row is certain
    weights = graph("Where", kept, graph("Exp", scaled), graph.constant(0.0))
    token, surely = graph.choose(weights, tokens)
    if certain:
        surely = graph("And", surely, certain)
    graph.nodes.append(Node("Where", [surely, token, graph.constant(-1)], "token"))
    columns = {"scores": datatype, "u": "FP64", **COLUMNS, **(CUTS if cuts else {})}
    return model(graph.nodes, columns, {"token": "INT64"})


def rows_graph(datatype: str, time: tuple[int, int] | None) -> bytes:
    """The model that picks `rows` (INT64) of `scores`: output `picked` [rows, tokens], FP32."""
    graph = _Graph()
    scores = graph.rows_of_scores(datatype, time)
    graph.nodes.append(Node("Gather", [scores, "rows"], "picked", {"axis": 0}))
    return model(graph.nodes, {"scores": datatype, "rows": "INT64"}, {"picked": "FP32"})


class _Graph:
    """Nodes, in order. Calls add one, and return the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def __call__(self, operator: str, *inputs: str, **attributes: int | float | Sequence[int]) -> str:
        output = f"{operator} {len(self.nodes)}"
        self.nodes.append(Node(operator, inputs, output, attributes))
        return output

    def constant(self, value: float | Sequence[int]) -> str:
        kind = (
            "value_float"
            if isinstance(value, float)
            else "value_int"
            if isinstance(value, int)
            else "value_ints"
        )
        return self("Constant", **{kind: value})

    def double(self, tensor: str) -> str:
        return self("Cast", tensor, to=ELEMENT_TYPES["FP64"])

    def count(self, condition: str) -> str:
        """In how many columns it is true, [rows, 1]."""
        numbers = self("Cast", condition, to=ELEMENT_TYPES["INT64"])
        return self("ReduceSum", numbers, self.constant([1]))

    def rows_of_scores(self, datatype: str, time: tuple[int, int] | None) -> str:
        """The scores of the next tokens, [rows, tokens], FP32."""
        scores = "scores"
        if time is not None:
            axis, position = time
            scores = self("Gather", scores, self.constant(position), axis=axis)
        return scores if datatype == "FP32" else self("Cast", scores, to=ELEMENT_TYPES["FP32"])

    def floor(self, scaled: str, ranked: int, tokens: int) -> tuple[str, str]:
        """The least score that top-k and top-p keep, [rows, 1], and whether it is certain."""
        best = self("TopK", scaled, self.constant([ranked]), axis=1)
        sums = self("CumSum", self.double(self("Exp", best)), self.constant(1))
        weights = self.double(self("Exp", scaled))
        every = self("ReduceSum", weights, self.constant([1]))
        of_k = self("Where", "has_k", self("GatherElements", sums, "last_k", axis=1), every)
        wanted = self("Mul", "top_p", of_k)
        # Of a row whose top-p is not reached within these ranks, the last one is too near to be certain.
        last = self("Min", self.count(self("Less", sums, wanted)), "last_k")
        least = self("GatherElements", best, last, axis=1)
        apart = self("ReduceMin", self("Abs", self("Sub", sums, wanted)), axes=[1])
        certain = self("Greater", apart, self("Mul", every, self.double(self.constant(_APART))))
        near = self("LessOrEqual", self("Abs", self("Sub", scaled, least)), self.constant(_NEAR))
        equal = self("Equal", scaled, least)
        certain = self("And", certain, self("Equal", self.count(near), self.count(equal)))
        if ranked < tokens:
            certain = self("And", certain, self("Less", last, self.constant(ranked - 1)))
        # of a row without either, whatever these say
        return self("Where", "cut", least, "floor"), self("Or", self("Not", "cut"), certain)

    def choose(self, weights: str, tokens: int) -> tuple[str, str]:
        """The token of each row, and whether it is certain, both [rows, 1]."""
        if tokens <= _PART:
            sums = self("CumSum", self.double(weights), self.constant(1))
            total = self("Gather", sums, self.constant([-1]), axis=1)
            drawn = self("Add", self("Mul", "u", total), "added")
            return self.count(self("LessOrEqual", sums, drawn)), self.certain(total, drawn, sums)
        parts = -(-tokens // _PART)
        if parts * _PART > tokens:
            weights = self("Pad", weights, self.constant([0, 0, 0, parts * _PART - tokens]))
        weights = self("Reshape", weights, self.constant([-1, parts, _PART]))
        part_sums = self("ReduceSum", self.double(weights), self.constant([2]), keepdims=0)
        ends = self("CumSum", part_sums, self.constant(1))
        total = self("Gather", ends, self.constant([-1]), axis=1)
        drawn = self("Add", self("Mul", "u", total), "added")
        part = self("Min", self.count(self("LessOrEqual", ends, drawn)), self.constant(parts - 1))
        before = self("Sub", *(self("GatherElements", each, part, axis=1) for each in (ends, part_sums)))
        within = self.double(self("GatherND", weights, part, batch_dims=1))
        sums = self("Add", self("CumSum", within, self.constant(1)), before)
        place = self.count(self("LessOrEqual", sums, drawn))
        token = self("Add", self("Mul", part, self.constant(_PART)), place)
        return token, self("And", self.certain(total, drawn, ends), self.certain(total, drawn, sums))

    def certain(self, total: str, drawn: str, sums: str) -> str:
        """Whether no sum is so near to what is drawn that it could be on the other side of it. Not if NaN."""
        apart = self("ReduceMin", self("Abs", self("Sub", sums, drawn)), axes=[1])
        return self("Greater", apart, self("Mul", total, self.double(self.constant(_APART))))
