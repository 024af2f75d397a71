"""Cards, parts and requests for tests of the pure parts; no graph, no device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lockstep_server.models.card import Card, TensorCard
from lockstep_server.models.manifest import Batching, Length, Manifest, Tensor
from lockstep_server.models.measure import measure
from lockstep_server.oneshot.request import Part, Request, split
from lockstep_server.port import Submit


def tensor(name: str, words: Tensor, shape: tuple[Any, ...], datatype: str = "FP32") -> TensorCard:
    return TensorCard(name, datatype, shape, False, words)


def ragged(axis: int = 0, **batching: Any) -> Card:
    """x, a mask, lengths -> y as long as x; `axis` is where the rows are on every tensor of two axes."""
    words = Tensor(axis, {1 - axis: "words"}, pad=-7)
    shape = ("b", "w") if axis == 0 else ("w", "b")
    manifest = Manifest(lengths={"words": Length(1000)}, batching=Batching(**batching), written=True)
    inputs = (
        tensor("x", words, shape),
        tensor("mask", replace(words, generated="mask", of="words", pad=0), shape, "BOOL"),
        tensor("sizes", Tensor(0, generated="lengths", of="words"), ("b",), "INT64"),
    )
    outputs = (
        tensor("y", words, shape),
        tensor("m", words, shape, "BOOL"),
        tensor("n", Tensor(0), ("b",), "INT64"),
    )
    return Card("m", 1, manifest, inputs, outputs, batched=True)


def two_lengths(**batching: Any) -> Card:
    """x over source words, z over target words."""
    manifest = Manifest(
        lengths={"source": Length(1000), "target": Length(1000)}, batching=Batching(**batching), written=True
    )
    inputs = (
        tensor("x", Tensor(0, {1: "source"}), ("b", "s")),
        tensor("z", Tensor(0, {1: "target"}), ("b", "t")),
    )
    return Card("m", 1, manifest, inputs, (tensor("y", Tensor(0), ("b",)),), batched=True)


def plain(**batching: Any) -> Card:
    """x -> y, rows in front and no named length."""
    first = Tensor(0)
    manifest = Manifest(batching=Batching(**batching), written=True)
    return Card(
        "m", 1, manifest, (tensor("x", first, ("n", "m")),), (tensor("y", first, ("n", "m")),), batched=True
    )


def submit(key: int = 1, **more: Any) -> Submit:
    return Submit(key, "m", 1, more.pop("inputs", {}), **more)


def parts(card: Card, inputs: dict[str, Any], **more: Any) -> list[Part]:
    return split(Request(submit(inputs=inputs, **more), measure(card, inputs)), card, inputs)


def part(length: int | tuple[int, ...] = 1, rows: int = 1, **more: Any) -> Part:
    """A part that waits; its tensors do not matter."""
    lengths = length if isinstance(length, tuple) else (length,)
    group, turn = more.pop("group", None), more.pop("turn", 0.0)
    request = Request(submit(**more), None)  # type: ignore[arg-type]
    return Part(
        request,
        0,
        {},
        rows,
        lengths,
        max(sum(lengths), 1),
        group,
        turn=turn,
    )
