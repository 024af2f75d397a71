"""What a module does, asked of the module itself: all that can be refused before anything is exported.

the same answer twice → which axes of its outputs vary → rows that are independent (or lie on another axis)
→ the shortest and the longest row → padding that changes nothing
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export.axes import BATCH, Axes
from lockstep_export.contract import InputContract, call
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.graph_module import GraphModule, ModuleOutput, by_name
from lockstep_export.parity import Parity, gap, largest, table
from lockstep_export.proof import COMPANY, prove
from lockstep_export.samples import draw, stack
from lockstep_export.tasks import Generate

ROWS, OTHER_ROWS = 3, 2
LENGTH, OTHER_LENGTH = 11, 13

Shapes = dict[str, tuple[int, ...]]


def check_module(module: nn.Module, contract: InputContract) -> tuple[ModuleOutput, ...]:
    """What `module` gives, once it is known to answer rows by themselves.

    Raises:
        DescriptionError: something else was said of it.
        ModuleError: its answers depend on chance, on other rows or on padding.
    """
    _check_twice(module, contract)
    outputs = _outputs(module, contract)
    widths = {one.name: one.width for one in outputs}
    contract.choices.task.check(widths)
    _check_next(contract, widths)
    if contract.choices.max_rows > 1:
        _check_rows(module, contract, outputs)
    elif _mixes(module, contract, outputs):  # as it may, unless what mixes are not rows at all
        _check_second(module, contract)
    _check_ends(module, contract)
    _check_padding(module, contract, outputs)
    return outputs


def _check_next(contract: InputContract, widths: Mapping[str, int | None]) -> None:
    """What is written is read next."""
    task, read = contract.choices.task, [one for one in contract.given if one.ids is not None]
    if not isinstance(task, Generate) or len(read) != 1:
        return
    width, ids = widths[task.scores], read[0].ids
    if width and ids and width > ids:
        raise DescriptionError(
            f"scores: {task.scores!r} scores {width} ids, and {read[0].name!r} takes {ids}: what is written"
            " could not be read; make them equal"
        )


def _check_twice(module: nn.Module, contract: InputContract) -> None:
    inputs = _inputs(contract, ROWS, _sizes(contract, LENGTH))
    try:
        given = [_called(module, contract, inputs) for _ in range(2)]
    except DescriptionError as error:  # its example it has taken
        raise DescriptionError(
            "the module takes the sizes of its example and no others: something in it has one size (a"
            " flattened text before a linear layer, a reshape to a constant). Pool over the axis, or say that"
            f' the size is fixed: axes="batch 5". {error}'
        ) from error
    one, other = (by_name(each, contract) for each in given)
    for name, tensor in one.items():
        if not torch.equal(tensor, other[name]) and not tensor.isnan().any():
            raise ModuleError(
                f"{name!r} differs when the module, in evaluation mode, is asked the same twice: something in"
                " it draws by chance. Write nn.Dropout, or functional.dropout(x, p, training=self.training)"
            )


def _outputs(module: nn.Module, contract: InputContract) -> tuple[ModuleOutput, ...]:
    """The axes of each output, from how their sizes follow those of the inputs."""
    base = _sizes(contract, LENGTH)
    shapes = _shapes(module, contract, ROWS, base)
    others = {BATCH: _shapes(module, contract, OTHER_ROWS, base)}
    for name in contract.longest:
        others[name] = _shapes(module, contract, ROWS, base | {name: _other(contract, name)})
    known = {BATCH: ROWS, **base}
    found = []
    for name, sizes in shapes.items():
        axes = _followed(name, sizes, known, {length: shape[name] for length, shape in others.items()})
        if BATCH not in axes.names:
            _check_second(module, contract)
            raise ModuleError(
                f"{name!r} {list(sizes)} has no axis of rows for {ROWS} rows: have the module give a row for"
                " each row that it is given, or leave this output out with outputs=(...)"
            )
        found.append(ModuleOutput(name, axes, sizes))
    return tuple(found)


def _followed(
    output: str, sizes: tuple[int, ...], known: Mapping[str, int], others: Mapping[str, tuple[int, ...]]
) -> Axes:
    names = [""] * len(sizes)
    for length, shape in others.items():
        if len(shape) != len(sizes):
            raise ModuleError(f"{output!r} has another number of axes where {length!r} has another size")
        for axis, (one, other) in enumerate(zip(sizes, shape, strict=True)):
            if one == other:
                continue
            if names[axis] or one != known[length]:
                raise ModuleError(
                    f"axis {axis} of {output!r} is {one} for {known[length]} of {length!r} and {other} for"
                    f" another: it must have one element for each of {length!r}, or a fixed size (pad a"
                    " convolution with padding='same'; do not fold axes into one), or be left out with"
                    " outputs=(...)"
                )
            names[axis] = length
    return Axes(tuple(names))


def _check_rows(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
    """Rows of one length answer in company as they do alone."""
    if _mixes(module, contract, outputs):
        _check_second(module, contract)
        raise ModuleError(
            "the rows of a batch change one another's answers: something in the module works over the axis"
            f" {BATCH!r} (a softmax, mean or normalisation over axis 0, a reshape that folds it into"
            " another). Have it work within a row, or serve one row at a time with max_rows=1"
        )


def _mixes(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> bool:
    chance = torch.Generator().manual_seed(5)
    rows = [draw(contract, _sizes(contract, LENGTH), chance) for _ in range(ROWS)]
    answer = GraphModule(module, contract, outputs).answer
    together = answer(stack(contract, rows))
    for index, row in enumerate(rows):
        alone = answer(stack(contract, [row]))
        for one in outputs:
            mine, its = together[one.name][index : index + 1], alone[one.name]
            same = np.array_equal(mine, its, equal_nan=mine.dtype.kind == "f")
            if not same and not gap(mine, its, largest(together[one.name])) <= contract.choices.tolerance:
                return True
    return False


def _check_second(module: nn.Module, contract: InputContract) -> None:
    """Refuses a module whose rows lie on the second axis, where they were said to lie on the first."""
    turned = tuple(
        replace(one, axes=one.axes.swapped()) if len(one.axes.names) > 1 else one for one in contract.inputs
    )
    if turned == contract.inputs:
        return
    other = replace(contract, inputs=turned)
    try:
        if _mixes(module, other, _outputs_of(module, other)):
            return
    except Exception:  # not of that kind either
        return
    said = ", ".join(f'"{one.name}": "{one.axes}"' for one in turned if one not in contract.inputs)
    raise DescriptionError(
        "the module's batch axis is its second: its rows are independent along axis 1, not along axis 0 as"
        f" the axes say. Write axes={{{said}}}, and the graph turns them; or give its layers"
        " batch_first=True"
    )


def _outputs_of(module: nn.Module, contract: InputContract) -> tuple[ModuleOutput, ...]:
    base = _sizes(contract, LENGTH)
    shapes = _shapes(module, contract, ROWS, base)
    others = _shapes(module, contract, OTHER_ROWS, base)
    return tuple(
        ModuleOutput(name, _followed(name, sizes, {BATCH: ROWS}, {BATCH: others[name]}), sizes)
        for name, sizes in shapes.items()
    )


def _check_ends(module: nn.Module, contract: InputContract) -> None:
    """It takes one element, and as many as were promised."""
    for name, most in contract.longest.items():
        for size in (1, most):
            sizes = _sizes(contract, LENGTH) | {name: size}
            try:
                _run(module, contract, _inputs(contract, 1, sizes))
            except DescriptionError as error:
                remedy = (
                    "pad it inside the module (functional.pad), so that the shortest row has an answer"
                    if size == 1
                    else f"say the most that it takes: longest={{{name!r}: …}}"
                )
                why = f"the module does not take a row of {size} {name!r}, and would be asked to"
                raise DescriptionError(f"{why}; {remedy}. {error}") from error


def _check_padding(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
    """Padding changes nothing, in PyTorch already."""
    answer = GraphModule(module, contract, outputs).answer
    failed = Parity("", prove(contract, outputs, answer, answer)).failed
    if not failed:
        return
    what = (
        "rows change one another's answers" if failed[0].comparison == COMPANY else "padding changes answers"
    )
    lines = [f"{type(module).__name__}: {what}, in PyTorch already", *table(failed)]
    raise ModuleError("\n  ".join(lines) + f"\n{padding_remedy(module, contract)}")


def padding_remedy(module: nn.Module, contract: InputContract) -> str:
    """What is likely to help where a padded row answers otherwise than alone."""
    filled = [one for one in contract.inputs if one.filled]
    layers = [layer for layer in module.modules() if isinstance(layer, nn.RNNBase)]
    serve = "or serve one row at a time with max_rows=1"
    if not filled:
        return (
            "The module is not told what is padding. Give forward a `lengths` input [batch] or a `mask` input"
            ' [batch, words], name it with lengths="..." or mask="...", and take the last real state, or the'
            f" mean or maximum over real elements alone; {serve}"
        )
    told = ", ".join(repr(one.name) for one in filled)
    if any(layer.bidirectional for layer in layers):
        return (
            f"The module takes {told}, but a backward direction that starts in the padding reads it first:"
            f" give the layer pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False); {serve}"
        )
    return (
        f"The module takes {told}, but padding still reaches an answer: look for a mean, sum, maximum or"
        f" softmax over the padded axis, a last element x[:, -1], a convolution over padding; {serve}"
    )


# --- runs -------------------------------------------------------------------------------------------


def _sizes(contract: InputContract, size: int) -> dict[str, int]:
    """Every named length has a size of its own, and none is that of the rows."""
    return {name: min(size + 4 * k, most) for k, (name, most) in enumerate(contract.longest.items())}


def _other(contract: InputContract, name: str) -> int:
    """Another size of one length, within what is promised."""
    size = _sizes(contract, LENGTH)[name]
    return size + 2 if size + 2 <= contract.longest[name] else max(1, size - 2)


def _inputs(contract: InputContract, rows: int, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(3)
    return stack(contract, [draw(contract, sizes, chance) for _ in range(rows)])


def _run(module: nn.Module, contract: InputContract, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The module on what a graph would take, by name and with its own axes."""
    return by_name(_called(module, contract, inputs), contract)


def _called(module: nn.Module, contract: InputContract, inputs: Mapping[str, Tensor]) -> Any:
    own = {one.name: inputs[one.name].movedim(0, one.axes.batch) for one in contract.inputs}
    return call(module, own, contract.by_name)


def _shapes(module: nn.Module, contract: InputContract, rows: int, sizes: Mapping[str, int]) -> Shapes:
    given = _run(module, contract, _inputs(contract, rows, sizes))
    return {name: tuple(tensor.shape) for name, tensor in given.items()}
