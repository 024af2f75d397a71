"""Checks that the numbers of a manifest fit the types of the tensors, so that none wraps or is truncated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import LoadError
from . import datatypes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .manifest import Manifest
    from .spec import ModelTensor


def check_numbers(tensor: ModelTensor, place: str) -> None:
    """Check the padding, the range and the generated values of one tensor. `place` is the prefix of errors.

    Raises:
        LoadError: its type does not hold them.
    """
    section, datatype = tensor.spec, tensor.datatype
    exact = datatypes.EXACT_INTEGERS.get(datatype)
    if section.pad and not datatypes.holds(datatype, section.pad):
        raise LoadError(
            f"{place}.{tensor.name}.pad: {datatype} cannot hold {section.pad:g}; use another value"
        )
    if section.value is not None and not datatypes.holds(datatype, section.value):
        raise LoadError(
            f"{place}.{tensor.name}.value: {datatype} cannot hold {section.value:g}; use another value"
        )
    if section.range is not None:
        if exact is None:
            raise LoadError(f"{place}.{tensor.name}.range: {datatype} holds no ids; remove this key")
        if section.range[0] < exact[0] or section.range[1] - 1 > exact[1]:
            raise LoadError(
                f"{place}.{tensor.name}.range: {list(section.range)} exceeds the integers of {datatype};"
                f" use a range within [{exact[0]}, {exact[1] + 1}]"
            )
    if section.generated and datatype == "BYTES":
        raise LoadError(f"{place}.{tensor.name}.generated: BYTES cannot be generated; remove this key")


def check_generated_lengths(inputs: Iterable[ModelTensor], manifest: Manifest, place: str) -> None:
    """Check that the type of each generated input of lengths or positions holds the largest.

    Raises:
        LoadError: it does not.
    """
    for tensor in inputs:
        if tensor.spec.generated in ("lengths", "positions"):
            longest = manifest.lengths[tensor.spec.of].max
            largest = datatypes.EXACT_INTEGERS.get(tensor.datatype, (0, 1))[1]
            if longest - (tensor.spec.generated == "positions") > largest:
                raise LoadError(
                    f"{place}.{tensor.name}: {tensor.datatype} holds {tensor.spec.generated} up to {largest},"
                    f" but lengths.{tensor.spec.of}.max is {longest}; lower the maximum"
                )
