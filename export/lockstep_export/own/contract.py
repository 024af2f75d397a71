"""What the author of a module says of it, held against an example of what it takes.

The example fixes types, fixed sizes and names; the axes say what varies. Nothing of the module is run but
once, with the example, to learn which of its embeddings take which input.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from lockstep_export.errors import DescriptionError
from lockstep_export.own.axes import Axes, read_axes
from lockstep_export.own.task import Task, Tensors

LONGEST = 512

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class Serving(TypedDict, total=False):
    """What may be said of a model beside its axes; `Choices` has the defaults."""

    task: Task  # Classify(labels), Encode(), Generate(), Tensors()
    tokenizer: Path | str | Any  # a tokenizer.json, a `tokenizers.Tokenizer`, or a fast one of transformers
    lengths: str | Sequence[str]  # the input [batch] that tells how long each row is: the server fills it in
    mask: str | Sequence[str]  # the input that is true, or 1, on real elements: likewise
    padding_mask: str | Sequence[str]  # the input that is true, or 1, on padding: likewise
    pad: float | Mapping[str, float]  # what an input is padded with
    ids: Mapping[str, int]  # of an input of ids: one past the largest; where no nn.Embedding tells
    longest: int | Mapping[str, int]  # the largest of each length; more is refused
    max_rows: int  # rows that share a run
    max_padded_elements: int  # rows x longest of a run
    version: int
    tolerance: float  # largest difference, of the largest value where that is above one
    about: str  # one line for the manifest
    report: Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """What was said, with defaults for what was not."""

    task: Task = field(default_factory=Tensors)
    tokenizer: Any = None
    lengths: str | Sequence[str] = ()
    mask: str | Sequence[str] = ()
    padding_mask: str | Sequence[str] = ()
    pad: float | Mapping[str, float] = 0
    ids: Mapping[str, int] | None = None
    longest: int | Mapping[str, int] = LONGEST
    max_rows: int = 64
    max_padded_elements: int = 4096
    version: int = 1
    tolerance: float = 1e-4  # what the server's own self-test allows
    about: str = ""
    report: Callable[[str], None] = print


@dataclass(frozen=True)
class Filled:
    """What the server fills an input with: "lengths" or "mask", of a named length."""

    kind: str
    of: str
    real: bool = True


@dataclass(frozen=True)
class Input:
    """One input of a module."""

    name: str
    example: Tensor
    axes: Axes
    pad: float = 0
    ids: int | None = None
    filled: Filled | None = None


@dataclass(frozen=True)
class Contract:
    """All that is known of what a module takes."""

    inputs: tuple[Input, ...]
    by_name: bool  # the module takes them as keywords
    longest: Mapping[str, int]  # by named length
    choices: Choices
    outputs: tuple[str, ...] = ()  # names, or a choice of the names that the module gives

    @property
    def given(self) -> tuple[Input, ...]:
        """What a caller sends: all that the server does not fill in."""
        return tuple(one for one in self.inputs if one.filled is None)

    @property
    def padded(self) -> bool:
        """Whether rows of different lengths may share a run."""
        return bool(self.longest) and self.choices.max_rows > 1


def read_contract(
    module: nn.Module,
    example: Example,
    axes: str | Sequence[str] | Mapping[str, str],
    outputs: str | Sequence[str],
    serving: Serving,
) -> Contract:
    """What is said, made whole.

    Raises:
        DescriptionError: what is said does not fit the example, or itself.
    """
    choices = _choices(serving)
    named = _named(module, example)
    texts = _axes_by_name(axes, list(named))
    read = {name: read_axes(texts[name], tensor.shape, name) for name, tensor in named.items()}
    filled = _filled(choices, read)
    longest = _longest(choices, read, filled)
    embedded = _embedded(module, named, isinstance(example, Mapping))
    inputs = tuple(_input(name, named[name], read, filled, choices, embedded) for name in named)
    _check_sizes(inputs)
    contract = Contract(inputs, isinstance(example, Mapping), longest, choices, _several(outputs))
    _check_text(contract)
    return contract


def _choices(serving: Mapping[str, Any]) -> Choices:
    known = [one.name for one in fields(Choices)]
    for name in serving:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise DescriptionError(f"{name!r} is not known; {hint}")
    choices = Choices(**serving)
    if choices.version < 1 or choices.max_rows < 1:
        raise DescriptionError("version and max_rows are whole numbers of 1 or more")
    return choices


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
    return {name: tensor.detach().cpu() for name, tensor in named.items()}


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


def _filled(choices: Choices, axes: Mapping[str, Axes]) -> dict[str, Filled]:
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
        filled[name] = Filled("lengths", of or named[0])
    for said, real in ((choices.mask, True), (choices.padding_mask, False)):
        for name in _several(said):
            _known("mask", [name], list(axes))
            if len(axes[name].names) != 2 or len(axes[name].lengths) != 1:
                raise DescriptionError(
                    f'mask: the axes of {name!r} are "{axes[name]}"; a mask has rows and one length,'
                    ' as in "batch words"'
                )
            filled[name] = Filled("mask", next(iter(axes[name].lengths.values())), real)
    return filled


def _longest(choices: Choices, axes: Mapping[str, Axes], filled: Mapping[str, Filled]) -> dict[str, int]:
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


@torch.no_grad()
def call(module: nn.Module, inputs: Mapping[str, Tensor], by_name: bool) -> Any:
    """What the module gives.

    Raises:
        DescriptionError: it does not take these inputs.
    """
    try:
        return module(**inputs) if by_name else module(*inputs.values())
    except Exception as error:  # a module may raise whatever it likes
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        why = " ".join(str(error).split())[:200]
        raise DescriptionError(
            f"{type(module).__name__} fails on {shapes}: {type(error).__name__}: {why}"
        ) from error


def _input(
    name: str,
    example: Tensor,
    axes: Mapping[str, Axes],
    filled: Mapping[str, Filled],
    choices: Choices,
    embedded: Mapping[str, int],
) -> Input:
    pad = choices.pad.get(name, 0) if isinstance(choices.pad, Mapping) else choices.pad
    said = choices.ids or {}
    _known("ids", said, list(axes))
    ids = said.get(name, embedded.get(name))
    whole = not (example.is_floating_point() or example.dtype == torch.bool)
    if whole and name not in filled and ids is None:
        raise DescriptionError(
            f"{name!r} holds whole numbers, and no nn.Embedding takes it as it is; say how many ids there"
            f' are: ids={{"{name}": 1000}}'
        )
    return Input(name, example, axes[name], pad, ids if whole else None, filled.get(name))


def _check_sizes(inputs: tuple[Input, ...]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for one in inputs:
        for name, size in zip(one.axes.names, one.example.shape, strict=True):
            known, where = sizes.setdefault(name, (size, one.name)) if name else (size, "")
            if size != known:
                raise DescriptionError(
                    f"the axis {name!r} is {known} in {where!r} and {size} in {one.name!r}; give axes of"
                    " different lengths different names"
                )


def _check_text(contract: Contract) -> None:
    if contract.choices.tokenizer is None:
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


def open_tokenizer(given: Any) -> Tokenizer:
    """A tokenizer from a file, from transformers, or as it is."""
    given = getattr(given, "backend_tokenizer", given)
    if isinstance(given, Tokenizer):
        return given
    try:
        return Tokenizer.from_file(str(given))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise DescriptionError(
            f"tokenizer: {given} cannot be read: {error}; save it with tokenizers"
        ) from error
