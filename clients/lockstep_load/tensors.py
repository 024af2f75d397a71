"""Makes the inputs of ModelInfer requests from the metadata of any Open Inference server.

`ModelMetadata` → `inputs` → `TensorInput`s → `arrays` with a given number of rows and length. Of the axes
with size -1, axis 0 is the batch and all others are the length. The fill is chosen by the input's name, as
Hugging Face and Triton models name them; `--shape` and `--fill` override both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from lockstep_client.tensors import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from lockstep_client.results import ModelMetadata, TensorSpec

Fill = Literal["random", "zeros", "ones", "length"]
Dimension = int | Literal["rows", "length"]
FILLS: tuple[Fill, ...] = get_args(Fill)
DEFAULT_IDS = (1, 64)
_NAMED: dict[str, Dimension] = {"rows": "rows", "length": "length"}

_WORDS = """
a the of and in is it with on to an at by for from two three man woman people child girl boy dog
film story young old white black blue red green small large good fine dull slow quiet never not
very more walking standing sitting playing looking running holding street water city house field
tree road this that his her one its who while near over under
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class TensorInput:
    """One input tensor of a request."""

    name: str
    datatype: str
    dimensions: tuple[Dimension, ...]
    fill: Fill


def inputs(
    metadata: ModelMetadata, shapes: Mapping[str, str], fills: Mapping[str, str], *, rows: bool = True
) -> tuple[TensorInput, ...]:
    """The inputs of a model.

    Raises:
        ValueError: a name is unknown, a shape is invalid, or a datatype is not supported.
    """
    known = {spec.name for spec in metadata.inputs}
    for name in (*shapes, *fills):
        if name not in known:
            names = ", ".join(sorted(known)) or "none in the model's metadata"
            raise ValueError(f"unknown input {name!r}; available: {names}")
    result = tuple(_input(spec, fills.get(spec.name, ""), rows=rows) for spec in metadata.inputs)
    return tuple(
        replace(one, dimensions=_shape(one.name, shapes[one.name])) if one.name in shapes else one
        for one in result
    )


def arrays(
    inputs: Sequence[TensorInput],
    rows: int,
    length: int,
    ids: tuple[int, int] | None,
    rng: np.random.Generator,
) -> dict[str, npt.NDArray[Any]]:
    """The input arrays of one request, by name."""
    sizes = {"rows": rows, "length": length}
    return {
        one.name: _array(
            one, [d if isinstance(d, int) else sizes[d] for d in one.dimensions], length, ids, rng
        )
        for one in inputs
    }


def sample_text(words: int, rng: np.random.Generator) -> str:
    """A text of this many words, separated by single spaces."""
    return " ".join(_WORDS[at] for at in rng.integers(0, len(_WORDS), words))


def _input(spec: TensorSpec, fill: str, *, rows: bool) -> TensorInput:
    if spec.datatype not in DTYPES and spec.datatype != "BYTES":
        raise ValueError(f"input {spec.name!r}: unsupported datatype {spec.datatype!r}")
    if fill and fill not in FILLS:
        raise ValueError(f"input {spec.name!r}: unknown fill {fill!r}; available: {', '.join(FILLS)}")
    dimensions: list[Dimension] = []
    for axis, size in enumerate(spec.shape):
        batch = axis == 0 and rows
        dimensions.append(size if size >= 0 else "rows" if batch else "length")
    filled = next((one for one in FILLS if one == fill), None) or _fill(spec.name)
    return TensorInput(spec.name, spec.datatype, tuple(dimensions), filled)


def _fill(name: str) -> Fill:
    lower = name.lower()
    if "mask" in lower:
        return "ones"
    if "length" in lower or lower.endswith("_len"):
        return "length"
    return "zeros" if "type_id" in lower else "random"


def _shape(name: str, given: str) -> tuple[Dimension, ...]:
    dimensions: list[Dimension] = []
    for part in (one.strip() for one in given.split(",")):
        if part in _NAMED:
            dimensions.append(_NAMED[part])
        elif part.isdecimal():
            dimensions.append(int(part))
        else:
            problem = f"{part!r} is not a number, 'rows' or 'length'"
            raise ValueError(f"shape of {name!r}: {problem}; use a form such as {name}=rows,length")
    return tuple(dimensions)


def _array(
    one: TensorInput, shape: list[int], length: int, ids: tuple[int, int] | None, rng: np.random.Generator
) -> npt.NDArray[Any]:
    if one.datatype == "BYTES":
        result = np.empty(int(np.prod(shape)), object)
        result[:] = [sample_text(length, rng) for _ in range(result.size)]
        return result.reshape(shape)
    dtype = DTYPES[one.datatype]
    if one.fill != "random":
        return np.full(shape, {"zeros": 0, "ones": 1, "length": length}[one.fill], dtype)
    if dtype.kind in "iu":
        low, high = ids or DEFAULT_IDS
        return rng.integers(low, high, shape).astype(dtype)
    return (rng.random(shape) < 0.5 if dtype.kind == "b" else rng.random(shape)).astype(dtype)
