"""Sends one request before a run: finds the call that the model supports, and its input tensors.

An error is raised at once, with the client library's message, instead of being counted in the run.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client.errors import (
    InvalidRequest,
    LockstepError,
    ModelNotFound,
    Overloaded,
    Unavailable,
    Unsupported,
)
from lockstep_load import target_client, tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lockstep_client.client import Client
    from lockstep_load.plan import CallKind, Target, Workload

_CALL_ORDER: tuple[CallKind, ...] = ("classify", "encode", "generate", "translate", "infer", "steps")


@dataclass(frozen=True)
class TensorOverrides:
    """Shapes and fills of ModelInfer inputs that the user gave, by input name."""

    shapes: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[str, str] = field(default_factory=dict)


def prepare(
    target: Target, workload: Workload, call: CallKind | None, overrides: TensorOverrides, wait_s: float = 0.0
) -> Workload:
    """Complete a workload with its call and its input tensors, after one successful request.

    If `call` is None, the first of classify, encode, generate, translate, infer and steps that the model
    supports is used. Waits up to `wait_s` for the server to become ready.

    Raises:
        LockstepError: the request failed.
        ValueError: `overrides` do not fit the model's inputs.
    """
    with target_client.client(target, max(target.timeout_s, 5.0)) as client:
        _await_ready(client, target, wait_s)
        if call:
            return _check_call(client, target, replace(workload, call=call), overrides)
        return _first_answered_call(client, target, workload, overrides)


def server_info(target: Target) -> dict[str, str]:
    """Name and version of the server; empty if it does not report them."""
    with target_client.client(target, 5.0) as client:
        try:
            info = client.server()
        except LockstepError:
            return {}
    return {"name": info.name, "version": info.version}


def _await_ready(client: Client, target: Target, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        try:
            client.metadata(target.model, version=target.version)
        except (Unavailable, ModelNotFound):
            time.sleep(0.2)
        except LockstepError:
            return
        else:
            return


def _first_answered_call(
    client: Client, target: Target, workload: Workload, overrides: TensorOverrides
) -> Workload:
    errors: dict[CallKind, LockstepError] = {}
    for call in _CALL_ORDER:
        try:
            return _check_call(client, target, replace(workload, call=call), overrides)
        except (InvalidRequest, Unsupported) as error:
            errors[call] = error
    raise errors["infer"]  # every model should support infer


def _check_call(client: Client, target: Target, workload: Workload, overrides: TensorOverrides) -> Workload:
    """Send one small request of the workload's call. A rejection for overload counts as an answer."""
    if workload.call in ("infer", "steps"):
        metadata = client.metadata(target.model, version=target.version)
        step_wise = workload.call == "steps"
        inputs = tensors.inputs(metadata, overrides.shapes, overrides.fills, rows=not step_wise)
        workload = replace(workload, inputs=inputs)
    elif overrides.shapes or overrides.fills:
        raise InvalidRequest("--shape and --fill require --call infer or steps")
    with suppress(Overloaded):
        _send_one(client, target, workload)
    return workload


def _send_one(client: Client, target: Target, workload: Workload) -> None:
    model, version = target.model, target.version
    low = workload.ids[0] if workload.ids else None
    match workload.call:
        case "classify":
            client.classify(model, **_row("texts", low, nested=True), version=version)
        case "encode":
            client.encode(model, **_row("texts", low, nested=True), version=version)
        case "generate":
            client.generate(model, **_row("prompt", low), max_tokens=1, version=version).result()
        case "translate":
            client.translate(model, **_row("text", low), max_tokens=1, version=version).result()
        case "follow":
            client.follow(model, "a" if low is None else [[low]], top_k=1, version=version).result()
        case _:
            _send_tensors(client, target, workload)


def _send_tensors(client: Client, target: Target, workload: Workload) -> None:
    step_wise = workload.call == "steps"
    length = 1 if step_wise else int(workload.lengths.draw(np.random.default_rng(0), 1)[0])
    inputs = tensors.arrays(workload.inputs, 1, length, workload.ids, np.random.default_rng(0))
    sequence: dict[str, Any] = {}
    if step_wise:
        sequence = {"sequence_id": 1 << 61, "sequence_start": True, "sequence_end": True}
    client.infer(target.model, inputs, version=target.version, **sequence)


def _row(field_name: str, low: int | None, *, nested: bool = False) -> dict[str, Any]:
    if low is None:
        return {field_name: "a"}
    return {"ids": [[low]] if nested else [low]}
