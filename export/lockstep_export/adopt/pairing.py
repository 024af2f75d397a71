"""Pairs the states of a step graph by the names of its inputs and outputs.

    past_key_values.0.key → present.0.key      h_in → h_out      cached_key_3 → new_cached_key_3
    state → stateN      h0 → hn      prev_h → h      x → next_x

A name is split into words. An input and an output pair if their words are equal without the words that say
"before" and "after", and at least one of them has such words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lockstep_export.adopt.graph import Axis, Graph, GraphTensor
from lockstep_export.errors import DescriptionError

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_BEFORE = (
    "past key values", "past key value", "past", "prev", "previous", "in", "input", "old", "init", "initial",
)  # fmt: skip
_AFTER = (
    "present key values", "present key value", "present", "new", "next", "out", "output", "updated", "n",
    "cur", "current",
)  # fmt: skip
_FIRST, _LAST = re.compile(r"(.*[A-Za-z])_?0"), re.compile(r"(.*[A-Za-z])_?[nN]")
"""Names of a pair such as h0 and hn."""

Words = tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A state: the input that takes it and the output that replaces it; "" if nothing does."""

    input: GraphTensor
    output: GraphTensor | None
    why: str

    @property
    def name(self) -> str:
        """Its name in the manifest: that of the input, without the words for "before"."""
        for prefix in ("past_key_values.", "past_key_values_", "past_"):
            if self.input.name.startswith(prefix):
                return self.input.name.removeprefix(prefix)
        return re.sub(r"_(in|input|prev)$", "", self.input.name)

    @property
    def growing_axis(self) -> int | None:
        """The axis that a step makes longer: its symbols before and after a step differ."""
        if self.output is None or self.output.shape is None or self.input.shape is None:
            return None
        both = enumerate(zip(self.input.shape, self.output.shape, strict=True))
        return next((axis for axis, (before, after) in both if _adds(before, after)), None)


def pair_states(graph: Graph, given: Mapping[str, str]) -> list[Pair]:
    """The states of `graph`. `given` names outputs by input, where the names do not say it; "" for an input
    that is no state.

    Raises:
        DescriptionError: two outputs may continue a state, or two states one output; an output has another
            type or shape than its input; or some of several similar states have no output.
    """
    _check_given(graph, given)
    pairs = [Pair(graph_input, graph.output(given[graph_input.name]), "as given")
             for graph_input in graph.inputs if given.get(graph_input.name)]  # fmt: skip
    free = [tensor for tensor in graph.inputs if tensor.name not in given]
    for tensor in free:
        candidates = [output for output in graph.outputs if _is_pair(tensor.name, output.name)]
        if len(candidates) > 1:
            candidates = [output for output in candidates if _fault(tensor, output) is None] or candidates
        if len(candidates) > 1:
            names = " and ".join(output.name for output in candidates)
            raise DescriptionError(
                f"input {tensor.name}: {names} may both continue this state; choose one:"
                f" --state {tensor.name}={candidates[0].name}"
            )
        if candidates:
            if fault := _fault(tensor, candidates[0]):
                raise DescriptionError(
                    f"state {tensor.name}: {fault}. What a step returns must fit its next step; correct the"
                    f" graph, or name another output: --state {tensor.name}=OUTPUT"
                )
            pairs.append(Pair(tensor, candidates[0], f"named alike: {tensor.name} → {candidates[0].name}"))
    _check_unique(pairs)
    _check_missing(graph, pairs, given)
    order = [tensor.name for tensor in graph.inputs]
    return sorted(pairs, key=lambda pair: order.index(pair.input.name))


def _check_given(graph: Graph, given: Mapping[str, str]) -> None:
    for name, output in given.items():
        if graph.input(name) is None:
            names = ", ".join(tensor.name for tensor in graph.inputs)
            raise DescriptionError(f"--state {name}={output}: no input {name!r}; available: {names}")
        if output and graph.output(output) is None:
            names = ", ".join(tensor.name for tensor in graph.outputs)
            raise DescriptionError(f"--state {name}={output}: no output {output!r}; available: {names}")


def _check_unique(pairs: Sequence[Pair]) -> None:
    for index, pair in enumerate(pairs):
        for other in pairs[:index]:
            if pair.output is not None and pair.output == other.output:
                raise DescriptionError(
                    f"output {pair.output.name}: it may continue {other.input.name} and {pair.input.name};"
                    f" choose one, and name the other's output: --state {other.input.name}=OUTPUT"
                )


def _check_missing(graph: Graph, pairs: Sequence[Pair], given: Mapping[str, str]) -> None:
    """An input that is named as paired ones are, but for numbers, must have an output too."""
    paired = {pair.input.name for pair in pairs}
    forms = {_form(name) for name in paired}
    for tensor in graph.inputs:
        if tensor.name in paired or tensor.name in given or is_carried(tensor.name):
            continue
        if _form(tensor.name) in forms or words(tensor.name)[:1] == ("past",):
            raise DescriptionError(
                f"state {tensor.name}: no output continues it; the graph returns"
                f" {', '.join(output.name for output in graph.outputs)}. Export the model with its caches as"
                f" outputs, or name the output: --state {tensor.name}=OUTPUT"
            )


def is_carried(name: str) -> bool:
    """Whether a state is carried unchanged: the keys and values of an encoder."""
    return {"past", "encoder"} <= set(words(name))


def words(name: str) -> Words:
    return tuple(word.lower() for word in _WORDS.findall(name))


def _is_pair(name: str, output: str) -> bool:
    before, after = words(name), words(output)
    first, last = _FIRST.fullmatch(name), _LAST.fullmatch(output)
    if first and last and first[1] == last[1]:
        return True
    stripped, left = set(_without(before, _BEFORE)), set(_without(after, _AFTER))
    return bool(stripped & left or before in left or after in stripped)


def _without(name: Words, marks: Sequence[str]) -> Iterator[Words]:
    """The name without one of the marks at its beginning or end."""
    for mark in marks:
        parts = tuple(mark.split())
        if name[: len(parts)] == parts and len(name) > len(parts):
            yield name[len(parts) :]
        if name[-len(parts) :] == parts and len(name) > len(parts):
            yield name[: -len(parts)]


def _fault(tensor: GraphTensor, output: GraphTensor) -> str | None:
    """Why the output cannot be the input of the next step."""
    if tensor.kind != output.kind:
        return f"it is {tensor.kind}, and {output.name}, which continues it, is {output.kind}"
    if tensor.shape is None or output.shape is None:
        return None
    if tensor.rank != output.rank or any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(tensor.shape, output.shape, strict=True)
    ):
        return f"it is {tensor}, and {output}, which continues it, has another shape"
    return None


def _form(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _adds(before: Axis, after: Axis) -> bool:
    """Whether the symbol after a step is another one than before it, such as `past + sequence`."""
    if not (isinstance(before, str) and isinstance(after, str)) or before == after:
        return False
    return before in after or "+" in after or after.startswith(("present", "total", "past"))
