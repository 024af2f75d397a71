"""Parses the declaration of a module's inputs and checks it against an example.

The example fixes datatypes, fixed sizes and names; the axes declare what varies. The module runs once, with
the example, to find which of its embeddings take which input.
"""

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lockstep_export.axes import Axes, read_axes
from lockstep_export.contract import Example, GeneratedInput, InputContract, ModuleInput, call
from lockstep_export.errors import DescriptionError
from lockstep_export.options import LONGEST, ExportOptions, ServingOptions, open_tokenizer, parse_options
from lockstep_export.tasks import Generate, Translate


def parse_spec(
    module: nn.Module,
    example: Example,
    axes: str | Sequence[str] | Mapping[str, str],
    outputs: str | Sequence[str],
    serving: ServingOptions,
    states: Collection[str] = (),
) -> InputContract:
    """The inputs and options as one contract. `states` are the inputs that a step carries.

    Raises:
        DescriptionError: the declaration does not match the example, or itself.
    """
    options = parse_options(serving)
    named = _named(module, example)
    texts = _axes_by_name(axes, list(named))
    axes_by_name = {name: read_axes(texts[name], tensor.shape, name) for name, tensor in named.items()}
    generated = _generated_inputs(options, axes_by_name)
    longest = _max_lengths(options, axes_by_name, generated)
    embedding_sizes = _embedding_sizes(module, named, isinstance(example, Mapping))
    inputs = tuple(
        _input(name, named[name], axes_by_name, generated, options, embedding_sizes) for name in named
    )
    _check_sizes(inputs)
    contract = InputContract(inputs, isinstance(example, Mapping), longest, options, _as_tuple(outputs))
    _check_text(contract, states)
    return contract


def _named(module: nn.Module, example: Example) -> dict[str, Tensor]:
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        tensors = [example] if isinstance(example, Tensor) else list(example)
        named = dict(zip(_parameters(module, len(tensors)), tensors, strict=True))
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise DescriptionError(f"the example of {name!r} is {type(tensor).__name__}; pass a tensor")
    if not named:
        raise DescriptionError("the example is empty; pass a tensor for each input")
    return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}


def _parameters(module: nn.Module, count: int) -> list[str]:
    parameters = inspect.signature(module.forward).parameters.values()
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(names) < count:
        raise DescriptionError(
            f"forward of {type(module).__name__} has {len(names)} parameters, but the example has {count}"
            " tensors; pass them by name: {'tokens': tensor}"
        )
    return names[:count]


def _axes_by_name(axes: str | Sequence[str] | Mapping[str, str], names: list[str]) -> dict[str, str]:
    if isinstance(axes, Mapping):
        found = dict(axes)
    else:
        texts = [axes] if isinstance(axes, str) else list(axes)
        if len(texts) != len(names):
            raise DescriptionError(f"axes: {len(texts)} given, but the inputs are {', '.join(names)}")
        found = dict(zip(names, texts, strict=True))
    _check_names("axes", found, names)
    for name in names:
        if name not in found:
            raise DescriptionError(f'axes: missing for {name!r}; declare them: axes={{"{name}": "batch …"}}')
    return found


def _check_names(what: str, declared: Mapping[str, Any] | Sequence[str], names: Sequence[str]) -> None:
    for name in declared:
        if name not in names:
            raise DescriptionError(f"{what}: unknown name {name!r}; available: {', '.join(names)}")


def _as_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _generated_inputs(options: ExportOptions, axes: Mapping[str, Axes]) -> dict[str, GeneratedInput]:
    named = sorted({length for tensor_axes in axes.values() for length in tensor_axes.lengths.values()})
    generated = {}
    for text in _as_tuple(options.lengths):
        name, _, of = text.partition(" of ")
        _check_names("lengths", [name], list(axes))
        if axes[name].names != ("batch",):
            raise DescriptionError(f'lengths: the axes of {name!r} are "{axes[name]}", expected "batch"')
        if not of and len(named) != 1:
            raise DescriptionError(
                f"lengths: the inputs have {len(named)} named lengths ({', '.join(named)}); specify which one"
                f' {name!r} holds: lengths="{name} of words"'
            )
        generated[name] = GeneratedInput("lengths", of or named[0])
    for declared, real in ((options.mask, True), (options.padding_mask, False)):
        for name in _as_tuple(declared):
            _check_names("mask", [name], list(axes))
            if len(axes[name].names) != 2 or len(axes[name].lengths) != 1:
                raise DescriptionError(
                    f'mask: the axes of {name!r} are "{axes[name]}"; a mask needs the batch axis and one'
                    ' length, as in "batch words"'
                )
            generated[name] = GeneratedInput("mask", next(iter(axes[name].lengths.values())), real)
    return generated


def _max_lengths(
    options: ExportOptions, axes: Mapping[str, Axes], generated: Mapping[str, GeneratedInput]
) -> dict[str, int]:
    names = [length for name in axes if name not in generated for length in axes[name].lengths.values()]
    for name, what in generated.items():
        if what.of not in names:
            raise DescriptionError(f"{name!r} refers to {what.of!r}, which no input that clients send has")
    declared = options.longest
    if isinstance(declared, Mapping):
        _check_names("longest", declared, names)
        return {name: declared.get(name, LONGEST) for name in names}
    return dict.fromkeys(names, declared)


def _embedding_sizes(module: nn.Module, named: dict[str, Tensor], by_name: bool) -> dict[str, int]:
    """The sizes of the embeddings that take an input directly."""
    found: dict[str, int] = {}

    def look(layer: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        for name, tensor in named.items():
            if args and isinstance(args[0], Tensor) and _same_storage(args[0], tensor):
                found[name] = min(found.get(name, layer.num_embeddings), layer.num_embeddings)

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        call(module, named, by_name)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _same_storage(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same storage: one may be a transpose of the other."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _check_pad(name: str, pad: float, dtype: torch.dtype) -> None:
    """The type of the input holds its padding value: an integer type no fraction, no type a larger number."""
    kind = torch.finfo if dtype.is_floating_point else torch.iinfo
    smallest, largest = (0, 1) if dtype == torch.bool else (kind(dtype).min, kind(dtype).max)
    allowed = smallest <= pad <= largest and (dtype.is_floating_point or pad == int(pad))
    if not allowed and not (dtype.is_floating_point and not math.isfinite(pad)):
        raise DescriptionError(f"pad: {dtype} of {name!r} cannot hold {pad:g}; use another value")


def _input(
    name: str,
    example: Tensor,
    axes: Mapping[str, Axes],
    generated: Mapping[str, GeneratedInput],
    options: ExportOptions,
    embedding_sizes: Mapping[str, int],
) -> ModuleInput:
    pad = options.pad.get(name, 0) if isinstance(options.pad, Mapping) else options.pad
    declared = options.ids or {}
    _check_names("ids", declared, list(axes))
    ids = declared.get(name, embedding_sizes.get(name))
    whole = not (example.is_floating_point() or example.dtype == torch.bool)
    if whole and name not in generated and ids is None:
        raise DescriptionError(
            f"{name!r} holds integers, and no nn.Embedding takes it directly; if the server generates it,"
            f' declare lengths="{name}" or mask="{name}"; otherwise declare the number of ids:'
            f' ids={{"{name}": 1000}}'
        )
    _check_pad(name, pad, example.dtype)
    return ModuleInput(name, example, axes[name], pad, ids if whole else None, generated.get(name))


def _check_sizes(inputs: tuple[ModuleInput, ...]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for input_ in inputs:
        for name, size in zip(input_.axes.names, input_.example.shape, strict=True):
            known, where = sizes.setdefault(name, (size, input_.name)) if name else (size, "")
            if size != known:
                raise DescriptionError(
                    f"the axis {name!r} has size {known} in {where!r} and {size} in {input_.name!r}; axes of"
                    " different lengths need different names"
                )


def _check_text(contract: InputContract, states: Collection[str]) -> None:
    task = contract.options.task
    if contract.options.tokenizer is None:
        if isinstance(task, Generate | Translate) and (task.begin, task.end) != (None, None):
            raise DescriptionError("begin, end: these ids need a tokenizer; pass tokenizer=")
        return
    inputs = [input_ for input_ in contract.client_inputs if input_.name not in states]
    if len(inputs) != 1 or inputs[0].ids is None or inputs[0].example.dtype != torch.int64:
        names = ", ".join(input_.name for input_ in inputs)
        raise DescriptionError(
            f"tokenizer: a text becomes one input of int64 ids, but clients send {names}; declare the inputs"
            " that the server generates (lengths=, mask=), or omit the tokenizer"
        )
    reads = task.target if isinstance(task, Translate) else contract.options.tokenizer
    size = open_tokenizer(reads).get_vocab_size()
    if size > inputs[0].ids:
        raise DescriptionError(
            f"tokenizer: it has {size} ids, but {inputs[0].name!r} accepts {inputs[0].ids}; use the tokenizer"
            " that the module was trained with"
        )
