"""Checks a module by running it, before anything is exported.

two identical calls → which axes of the outputs vary → independent rows (or a batch axis that is not axis 0)
→ the shortest and the longest row → padding
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export import computed_lengths
from lockstep_export.axes import BATCH, Axes, ModuleOutput
from lockstep_export.contract import InputContract, call
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.graph_module import GraphModule, by_name
from lockstep_export.parity import Parity, gap, largest, table
from lockstep_export.proof import BATCHED, prove
from lockstep_export.samples import draw, stack
from lockstep_export.tasks import Generate, Translate

ROWS, OTHER_ROWS = 3, 2
LENGTH = 11
FAR = 512  # elements more, so that an axis that changes once in many elements is seen to change
LONGEST_TRIED = 2048

Shapes = dict[str, tuple[int, ...]]


def check_module(module: nn.Module, contract: InputContract) -> tuple[ModuleOutput, ...]:
    """The outputs of `module`, after checking that each row's result depends on that row only.

    Raises:
        DescriptionError: the declared axes, labels or task do not match the module.
        ModuleError: results depend on randomness, on other rows or on padding.
    """
    outputs = find_outputs(module, contract)
    if contract.options.max_rows > 1:
        _check_rows(module, contract, outputs)
    elif _mixes(module, contract, outputs):  # allowed with one row per batch, unless axis 0 holds no rows
        _check_second_axis(module, contract)
    _check_extreme_lengths(module, contract)
    _check_padding(module, contract, outputs)
    return outputs


def find_outputs(module: nn.Module, contract: InputContract) -> tuple[ModuleOutput, ...]:
    """The outputs of `module`, with the axes that vary.

    Raises:
        DescriptionError: the declared axes, labels or task do not match the module.
        ModuleError: results depend on randomness, or an axis follows no length.
    """
    _check_deterministic(module, contract)
    outputs = _outputs(module, contract)
    by_output = {output.name: output for output in outputs}
    contract.options.task.check(by_output)
    _check_generated_ids(contract, by_output)
    _check_finite(module, contract)
    return outputs


def _check_finite(module: nn.Module, contract: InputContract) -> None:
    """Outputs with a role hold numbers; a score of minus infinity rules a label or token out."""
    roles = contract.options.task.roles()
    returned = _run(module, contract, _inputs(contract, ROWS, _sizes(contract, LENGTH)))
    for role in ("scores", "vector", "attention"):
        values = returned.get(roles.get(role, ""))
        if values is None or not values.is_floating_point():
            continue
        allowed = values.isfinite() | ((values == -torch.inf) & (role == "scores"))
        if not allowed.all():
            raise ModuleError(
                f"{role}: {roles[role]!r} is NaN or infinite for ordinary inputs, and the server answers no"
                " such request: look for a division by 0, the logarithm of 0, a softmax over masked elements"
                " only, or weights that are not finite"
            )


def _check_generated_ids(contract: InputContract, outputs: Mapping[str, ModuleOutput]) -> None:
    """A generated id must be a valid input id."""
    task = contract.options.task
    id_inputs = [input_ for input_ in contract.client_inputs if input_.ids is not None]
    if not isinstance(task, Generate | Translate) or len(id_inputs) != 1:
        return
    width, ids = outputs[task.scores].width, id_inputs[0].ids
    if width and ids and width > ids:
        raise DescriptionError(
            f"scores: {task.scores!r} scores {width} ids, but {id_inputs[0].name!r} accepts {ids}: a"
            " generated id could be out of range; make the two sizes equal"
        )


def _check_deterministic(module: nn.Module, contract: InputContract) -> None:
    inputs = _inputs(contract, ROWS, _sizes(contract, LENGTH))
    try:
        returned = [_call(module, contract, inputs) for _ in range(2)]
    except DescriptionError as error:  # the example itself was accepted
        raise DescriptionError(
            "the module accepts only the sizes of its example: one of its parts has a fixed size (flattened"
            " input before a linear layer, a reshape to a constant). Pool over the axis, or declare the size"
            f' as fixed: axes="batch 5". {error}'
        ) from error
    first, second = (by_name(each, contract) for each in returned)
    for name, tensor in first.items():
        if not torch.equal(tensor, second[name]) and not tensor.isnan().any():
            raise ModuleError(
                f"{name!r} differs between two identical calls in evaluation mode: the module is random. Use"
                " nn.Dropout, or functional.dropout(x, p, training=self.training)"
            )


def _outputs(module: nn.Module, contract: InputContract) -> tuple[ModuleOutput, ...]:
    """The outputs with their axes, found by changing one input size at a time."""
    base = _sizes(contract, LENGTH)
    shapes = _shapes(module, contract, ROWS, base)
    others = {BATCH: _shapes(module, contract, OTHER_ROWS, base)}
    for name in contract.max_lengths:
        others[name] = _shapes_elsewhere(module, contract, base, name)
    known = {BATCH: ROWS, **base}
    found = []

    def fitted(output: str, axis: int, length: str) -> str:
        """The formula of an axis that has other sizes than the length that it follows; "" if none fits."""
        if length == BATCH:
            return ""

        @functools.cache
        def size_of(size: int) -> int:
            return _shapes(module, contract, 1, base | {length: size})[output][axis]

        try:
            longest = min(contract.max_lengths[length], LONGEST_TRIED)
            return computed_lengths.fit(length, size_of, longest)
        except DescriptionError:  # the module does not take some size
            return ""

    for name, sizes in shapes.items():
        changed = {length: shape[name] for length, shape in others.items()}
        axes = _infer_axes(name, sizes, known, changed, fitted)
        if BATCH not in axes.names:
            _check_second_axis(module, contract)
            raise ModuleError(
                f"{name!r} {list(sizes)} has no batch axis for {ROWS} rows: return one row per input row, or"
                " drop this output with outputs=(...)"
            )
        found.append(ModuleOutput(name, axes, sizes))
    return tuple(found)


def _infer_axes(
    output: str,
    sizes: tuple[int, ...],
    known: Mapping[str, int],
    others: Mapping[str, tuple[int, ...]],
    fitted: Callable[[str, int, str], str] = lambda *_: "",
) -> Axes:
    names = [""] * len(sizes)
    for length, shape in others.items():
        if len(shape) != len(sizes):
            raise ModuleError(f"the number of axes of {output!r} changes with the size of {length!r}")
        for axis, (one, other) in enumerate(zip(sizes, shape, strict=True)):
            if one == other:
                continue
            formula = length if one == known[length] else fitted(output, axis, length)
            if names[axis] or not formula:
                raise ModuleError(
                    f"axis {axis} of {output!r} has size {one} when {length!r} is {known[length]} and {other}"
                    f" when it is different, and no formula fits, such as ceil({length} / 2): return one"
                    f" element per element of {length!r}, or one per stride, or a fixed size (pad a"
                    " convolution, so that it takes one element too; do not merge axes), or drop the output"
                    " with outputs=(...)"
                )
            names[axis] = formula
    return Axes(tuple(names))


def _check_rows(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
    """Rows of equal length give the same results batched and unbatched."""
    if _mixes(module, contract, outputs):
        _check_second_axis(module, contract)
        raise ModuleError(
            "rows of a batch affect each other's results: an operation in the module runs over the axis"
            f" {BATCH!r} (a softmax, mean or normalisation over axis 0, a reshape that merges it with"
            " another). Restrict it to one row, or serve one row at a time with max_rows=1"
        )


def _mixes(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> bool:
    rng = torch.Generator().manual_seed(5)
    rows = [draw(contract, _sizes(contract, LENGTH), rng) for _ in range(ROWS)]
    answer = GraphModule(module, contract, outputs).answer
    batched = answer(stack(contract, rows))
    for index, row in enumerate(rows):
        unbatched = answer(stack(contract, [row]))
        for output in outputs:
            row_batched, row_unbatched = batched[output.name][index : index + 1], unbatched[output.name]
            same = np.array_equal(row_batched, row_unbatched, equal_nan=row_batched.dtype.kind == "f")
            if (
                not same
                and not gap(row_batched, row_unbatched, largest(batched[output.name]))
                <= contract.options.tolerance
            ):
                return True
    return False


def _check_second_axis(module: nn.Module, contract: InputContract) -> None:
    """Rejects a module whose batch axis is its second, where the declared one is its first."""
    turned = tuple(
        replace(input_, axes=input_.axes.swapped()) if len(input_.axes.names) > 1 else input_
        for input_ in contract.inputs
    )
    if turned == contract.inputs:
        return
    other = replace(contract, inputs=turned)
    try:
        if _mixes(module, other, _outputs_of(module, other)):
            return
    except Exception:  # the batch axis is not the second either
        return
    axes = ", ".join(
        f'"{input_.name}": "{input_.axes}"' for input_ in turned if input_ not in contract.inputs
    )
    raise DescriptionError(
        "the module's batch axis is its second: rows are independent along axis 1, not along axis 0 as"
        f" declared. Use axes={{{axes}}} (the graph transposes the tensors), or set batch_first=True on the"
        " module's layers"
    )


def _outputs_of(module: nn.Module, contract: InputContract) -> tuple[ModuleOutput, ...]:
    base = _sizes(contract, LENGTH)
    shapes = _shapes(module, contract, ROWS, base)
    others = _shapes(module, contract, OTHER_ROWS, base)
    return tuple(
        ModuleOutput(name, _infer_axes(name, sizes, {BATCH: ROWS}, {BATCH: others[name]}), sizes)
        for name, sizes in shapes.items()
    )


def _check_extreme_lengths(module: nn.Module, contract: InputContract) -> None:
    """The module accepts rows of one element and rows of the declared maximum."""
    for name, most in contract.max_lengths.items():
        for size in (1, most):
            sizes = _sizes(contract, LENGTH) | {name: size}
            try:
                _run(module, contract, _inputs(contract, 1, sizes))
            except DescriptionError as error:
                remedy = (
                    "pad it inside the module (functional.pad), so that the shortest row is accepted"
                    if size == 1
                    else f"declare the largest size that it accepts: longest={{{name!r}: …}}"
                )
                why = f"the module does not accept a row of {size} {name!r}, but the server may send one"
                raise DescriptionError(f"{why}; {remedy}. {error}") from error


def _check_padding(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
    """Padding must not change results in PyTorch."""
    answer = GraphModule(module, contract, outputs).answer
    failed = Parity("", prove(contract, outputs, answer, answer)).failed
    if not failed:
        return
    what = (
        "rows affect each other's results" if failed[0].comparison == BATCHED else "padding changes results"
    )
    lines = [f"{type(module).__name__}: {what}, already in PyTorch", *table(failed)]
    raise ModuleError("\n  ".join(lines) + f"\n{padding_remedy(module, contract)}")


def padding_remedy(module: nn.Module, contract: InputContract) -> str:
    """A likely fix for a module whose results change with padding."""
    generated = [input_ for input_ in contract.inputs if input_.generated]
    layers = [layer for layer in module.modules() if isinstance(layer, nn.RNNBase)]
    serve = "or serve one row at a time with max_rows=1"
    if not generated:
        return (
            "The module does not know which elements are padding. Give forward a `lengths` input [batch] or a"
            ' `mask` input [batch, words], declare it with lengths="..." or mask="...", and use the last real'
            f" state, or the mean or maximum over real elements only; {serve}"
        )
    names = ", ".join(repr(input_.name) for input_ in generated)
    if any(layer.bidirectional for layer in layers):
        return (
            f"The module takes {names}, but its backward direction starts in the padding: pass the layer"
            f" pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False); {serve}"
        )
    return (
        f"The module takes {names}, but padding still affects a result: look for a mean, sum, maximum or"
        f" softmax over the padded axis, a last element x[:, -1], a convolution over padding; {serve}"
    )


# --- running the module ------------------------------------------------------------------------------


def _sizes(contract: InputContract, size: int) -> dict[str, int]:
    """A size for each named length: all different, and different from the number of rows."""
    return {name: min(size + 4 * k, most) for k, (name, most) in enumerate(contract.max_lengths.items())}


def _shapes_elsewhere(module: nn.Module, contract: InputContract, base: dict[str, int], name: str) -> Shapes:
    """The shapes at a different size of one length, within its maximum: a far one if the module takes it."""
    size, most = base[name], contract.max_lengths[name]
    near = size + 2 if size + 2 <= most else max(1, size - 2)
    far = min(size + FAR, most)
    try:
        return _shapes(module, contract, ROWS, base | {name: near if far == size else far})
    except DescriptionError:  # `_check_extreme_lengths` reports what it does not take
        return _shapes(module, contract, ROWS, base | {name: near})


def _inputs(contract: InputContract, rows: int, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return stack(contract, [draw(contract, sizes, rng) for _ in range(rows)])


def _run(module: nn.Module, contract: InputContract, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Calls the module with graph inputs; the result is by name, with the module's own axes."""
    return by_name(_call(module, contract, inputs), contract)


def _call(module: nn.Module, contract: InputContract, inputs: Mapping[str, Tensor]) -> Any:
    own = {input_.name: inputs[input_.name].movedim(0, input_.axes.batch) for input_ in contract.inputs}
    return call(module, own, contract.by_name)


def _shapes(module: nn.Module, contract: InputContract, rows: int, sizes: Mapping[str, int]) -> Shapes:
    returned = _run(module, contract, _inputs(contract, rows, sizes))
    return {name: tuple(tensor.shape) for name, tensor in returned.items()}
