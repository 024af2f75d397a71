"""What the author of a module says of it, held against an example of what it takes.

The example fixes types, fixed sizes and names; the axes say what varies. Nothing of the module is run but
once, with the example, to learn which of its embeddings take which input.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lockstep_export.axes import Axes, read_axes
from lockstep_export.contract import Example, GeneratedInput, InputContract, ModuleInput, call
from lockstep_export.errors import DescriptionError
from lockstep_export.options import LONGEST, ExportOptions, ServingOptions, open_tokenizer, parse_options
from lockstep_export.tasks import Generate


def parse_spec(
    module: nn.Module,
    example: Example,
    axes: str | Sequence[str] | Mapping[str, str],
    outputs: str | Sequence[str],
    serving: ServingOptions,
) -> InputContract:
    """What is said, made whole.

    Raises:
        DescriptionError: what is said does not fit the example, or itself.
    """
    choices = parse_options(serving)
    named = _named(module, example)
    texts = _axes_by_name(axes, list(named))
    read = {name: read_axes(texts[name], tensor.shape, name) for name, tensor in named.items()}
    filled = _filled(choices, read)
    longest = _longest(choices, read, filled)
    embedded = _embedded(module, named, isinstance(example, Mapping))
    inputs = tuple(_input(name, named[name], read, filled, choices, embedded) for name in named)
    _check_sizes(inputs)
    contract = InputContract(inputs, isinstance(example, Mapping), longest, choices, _several(outputs))
    _check_text(contract)
    return contract


def _named(module: nn.Module, example: Example) -> dict[str, Tensor]:
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        tensors = [example] if isinstance(example, Tensor) else list(example)
        named = dict(zip(_parameters(module, len(tensors)), tensors, strict=True))
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise DescriptionError(f"the example of {name!r} is {type(tensor).__name__}; give a tensor")
    if not named:
        raise DescriptionError("the example is empty; give a tensor for each input")
    return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}


def _parameters(module: nn.Module, count: int) -> list[str]:
    parameters = inspect.signature(module.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(names) < count:
        raise DescriptionError(
            f"forward of {type(module).__name__} names {len(names)} inputs, the example has {count} tensors;"
            " give them by name: {'tokens': tensor}"
        )
    return names[:count]


def _axes_by_name(axes: str | Sequence[str] | Mapping[str, str], names: list[str]) -> dict[str, str]:
    if isinstance(axes, Mapping):
        found = dict(axes)
    else:
        texts = [axes] if isinstance(axes, str) else list(axes)
        if len(texts) != len(names):
            raise DescriptionError(f"axes: there are {len(texts)}, for the inputs {', '.join(names)}")
        found = dict(zip(names, texts, strict=True))
    _known("axes", found, names)
    for name in names:
        if name not in found:
            raise DescriptionError(f'axes: {name!r} is missing; say which vary: axes={{"{name}": "batch …"}}')
    return found


def _known(what: str, said: Mapping[str, Any] | Sequence[str], names: Sequence[str]) -> None:
    for name in said:
        if name not in names:
            raise DescriptionError(f"{what}: there is no {name!r}; there are {', '.join(names)}")


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _filled(choices: ExportOptions, axes: Mapping[str, Axes]) -> dict[str, GeneratedInput]:
    named = sorted({length for one in axes.values() for length in one.lengths.values()})
    filled = {}
    for text in _several(choices.lengths):
        name, _, of = text.partition(" of ")
        _known("lengths", [name], list(axes))
        if axes[name].names != ("batch",):
            raise DescriptionError(f'lengths: the axes of {name!r} are "{axes[name]}"; it needs "batch"')
        if not of and len(named) != 1:
            raise DescriptionError(
                f"lengths: there are {len(named)} named lengths ({', '.join(named)}); say which {name!r}"
                f' tells of: lengths="{name} of words"'
            )
        filled[name] = GeneratedInput("lengths", of or named[0])
    for said, real in ((choices.mask, True), (choices.padding_mask, False)):
        for name in _several(said):
            _known("mask", [name], list(axes))
            if len(axes[name].names) != 2 or len(axes[name].lengths) != 1:
                raise DescriptionError(
                    f'mask: the axes of {name!r} are "{axes[name]}"; a mask has rows and one length,'
                    ' as in "batch words"'
                )
            filled[name] = GeneratedInput("mask", next(iter(axes[name].lengths.values())), real)
    return filled


def _longest(
    choices: ExportOptions, axes: Mapping[str, Axes], filled: Mapping[str, GeneratedInput]
) -> dict[str, int]:
    names = [length for name in axes if name not in filled for length in axes[name].lengths.values()]
    for name, what in filled.items():
        if what.of not in names:
            raise DescriptionError(f"{name!r} tells of {what.of!r}, which no input that is sent has")
    said = choices.longest
    if isinstance(said, Mapping):
        _known("longest", said, names)
        return {name: said.get(name, LONGEST) for name in names}
    return dict.fromkeys(names, said)


def _embedded(module: nn.Module, named: dict[str, Tensor], by_name: bool) -> dict[str, int]:
    """The sizes of the embeddings that take an input as it is."""
    found: dict[str, int] = {}

    def look(layer: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        for name, tensor in named.items():
            if args and isinstance(args[0], Tensor) and _holds(args[0], tensor):
                found[name] = min(found.get(name, layer.num_embeddings), layer.num_embeddings)

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        call(module, named, by_name)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _holds(one: Tensor, other: Tensor) -> bool:
    """The very tensor, or it turned round."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _input(
    name: str,
    example: Tensor,
    axes: Mapping[str, Axes],
    filled: Mapping[str, GeneratedInput],
    choices: ExportOptions,
    embedded: Mapping[str, int],
) -> ModuleInput:
    pad = choices.pad.get(name, 0) if isinstance(choices.pad, Mapping) else choices.pad
    said = choices.ids or {}
    _known("ids", said, list(axes))
    ids = said.get(name, embedded.get(name))
    whole = not (example.is_floating_point() or example.dtype == torch.bool)
    if whole and name not in filled and ids is None:
        raise DescriptionError(
            f"{name!r} holds whole numbers, and no nn.Embedding takes it as it is; where the server is to"
            f' fill it in, say lengths="{name}" or mask="{name}", and else say how many ids there are:'
            f' ids={{"{name}": 1000}}'
        )
    return ModuleInput(name, example, axes[name], pad, ids if whole else None, filled.get(name))


def _check_sizes(inputs: tuple[ModuleInput, ...]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for one in inputs:
        for name, size in zip(one.axes.names, one.example.shape, strict=True):
            known, where = sizes.setdefault(name, (size, one.name)) if name else (size, "")
            if size != known:
                raise DescriptionError(
                    f"the axis {name!r} is {known} in {where!r} and {size} in {one.name!r}; give axes of"
                    " different lengths different names"
                )


def _check_text(contract: InputContract) -> None:
    task = contract.choices.task
    if contract.choices.tokenizer is None:
        if isinstance(task, Generate) and (task.begin, task.end) != (None, None):
            raise DescriptionError("begin, end: ids of a text, for which there is no tokenizer; name one")
        return
    given = contract.given
    if len(given) != 1 or given[0].ids is None or given[0].example.dtype != torch.int64:
        names = ", ".join(one.name for one in given)
        raise DescriptionError(
            f"tokenizer: a text becomes one input of int64 ids, but the module is given {names}; name those"
            " that the server fills in (lengths=, mask=), or leave the tokenizer out"
        )
    size = open_tokenizer(contract.choices.tokenizer).get_vocab_size()
    if size > given[0].ids:
        raise DescriptionError(
            f"tokenizer: it knows {size} ids and {given[0].name!r} takes {given[0].ids}; they must come from"
            " one training"
        )
