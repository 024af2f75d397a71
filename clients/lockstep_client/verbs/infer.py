"""`lockstep infer` and `lockstep describe`: tensors in and out, and what a model takes and returns."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockstep_client.texts import InputError
from lockstep_client.verbs.context import Model, VerbContext, Version

if TYPE_CHECKING:
    import numpy.typing as npt

    from lockstep_client.results import InferResult, TensorSpec

_FEW = 64
"""An output of more elements is not printed in full on a terminal or in a pipe."""


def infer(
    context: VerbContext,
    model: Model,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE...",
            help="Inputs: JSON, such as tokens='[[12, 7]]', or a file that numpy.save wrote: tokens=ids.npy."
            " `NAME=` may be left out if the model has one input; - reads a JSON object of all from stdin.",
        ),
    ],
    outputs: Annotated[
        list[str] | None, typer.Option("--output", metavar="NAME", help="Only this output; repeatable.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Save all outputs as numpy.savez does.")
    ] = None,
    sequence: Annotated[
        str, typer.Option(metavar="ID", help="Make this a step of a sequence. 0 or none: no sequence.")
    ] = "",
    start: Annotated[bool, typer.Option("--start", help="With --sequence: its first step.")] = False,
    end: Annotated[bool, typer.Option("--end", help="With --sequence: its last step.")] = False,
    version: Version = "",
) -> None:
    """Run a model on tensors: JSON or .npy files in, JSON or an .npz file out."""
    import numpy as np

    from lockstep_client.errors import InvalidRequest

    specs = context.client.metadata(model, version=version).inputs
    arrays = _arrays(inputs, specs)
    try:
        answer = context.client.infer(
            model, arrays, outputs=outputs or (), version=version,
            sequence_id=sequence, sequence_start=start, sequence_end=end,
        )  # fmt: skip
    except InvalidRequest as error:
        expected = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in specs)
        error.message += f" (the model's inputs: {expected})"
        raise
    if save is not None:
        try:
            saved: dict[str, Any] = dict(answer.outputs)
            np.savez(save, **saved)
        except OSError as error:
            raise InputError(f"{save}: cannot be written: {error.strerror}") from None
    _show(context, answer)


def _arrays(given: Sequence[str], specs: Sequence["TensorSpec"]) -> dict[str, "npt.NDArray[Any]"]:
    """
    Raises:
        InputError: an input is unknown or given twice, or its value cannot be read.
    """
    by_name = {one.name: one for one in specs}
    found: dict[str, npt.NDArray[Any]] = {}
    pairs: list[tuple[str, Any]] = []
    if list(given) == ["-"]:
        whole = _parsed("standard input", sys.stdin.read())
        if not isinstance(whole, dict):
            raise InputError("standard input: expected a JSON object of inputs by name")
        pairs = list(whole.items())
    else:
        for one in given:
            name, equals, value = one.partition("=")
            if not equals and len(specs) == 1:
                name, value = specs[0].name, one
            elif not equals:
                raise InputError(f"{one!r} has no name; write NAME=VALUE with one of {', '.join(by_name)}")
            pairs.append((name, value))
    for name, value in pairs:
        if name not in by_name:
            raise InputError(f"the model has no input {name!r}; it has {', '.join(by_name)}")
        if name in found:
            raise InputError(f"input {name!r} is given twice")
        found[name] = _array(by_name[name], value)
    return found


def _array(spec: "TensorSpec", value: Any) -> "npt.NDArray[Any]":
    import numpy as np

    if isinstance(value, str) and value.endswith(".npy"):
        try:
            return np.asarray(np.load(value, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{value}: cannot be read as .npy: {error}") from None
    parsed = _parsed(f"input {spec.name!r}", value) if isinstance(value, str) else value
    try:
        return _converted(np.asarray(parsed), spec.datatype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"input {spec.name!r}: not an array of {spec.datatype}: {error}") from None


def _converted(array: "npt.NDArray[Any]", datatype: str) -> "npt.NDArray[Any]":
    """The array in the datatype of its input, with the same values.

    Raises:
        ValueError: the datatype does not have these values.
    """
    import numpy as np

    from lockstep_client.tensors import DTYPES

    if datatype == "BYTES":
        return array.astype(object)
    dtype = DTYPES[datatype]
    allowed = {"b": "b", "i": "iub", "u": "iub"}.get(dtype.kind, "iubf")
    if array.dtype.kind not in allowed:
        raise ValueError(f"its elements are {array.dtype}")
    converted = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(converted, array):
        raise ValueError("an element is too large or negative")
    return converted


def _parsed(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{what}: neither JSON nor the name of a .npy file: {error}") from None


def _show(context: VerbContext, answer: "InferResult") -> None:
    import numpy as np

    from lockstep_client import display

    def plain(array: "npt.NDArray[Any]") -> Any:
        return [one.decode("utf-8", "replace") for one in array.ravel()] if array.dtype == object else array

    if context.as_json:
        whole = {name: plain(array) for name, array in answer.outputs.items()}
        display.json_line({"model": answer.model, "version": answer.version, "outputs": whole})
        return
    for name, array in answer.outputs.items():
        shown = np.array2string(np.asarray(plain(array)), threshold=_FEW, separator=", ")
        print(f"{name} {array.dtype} {list(array.shape)}")
        print(shown)


def describe(
    context: VerbContext,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    version: Version = "",
) -> None:
    """Describe a model: inputs, outputs, lengths, labels, notices, costs, and example calls."""
    from lockstep_client import description, display

    forms = context.client.describe(model, version=version)
    if context.as_json:
        for form in forms:
            display.json_line(form)
        return
    for line in description.lines(forms, context.client.address):
        print(line)
