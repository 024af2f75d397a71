"""The tables of step models: decoders that generate, and steps over tensors, such as streaming encoders."""

from collections.abc import Collection, Mapping, Sequence
from math import prod

import onnx

from lockstep_export.adopt.graph import FLOATS, Graph, GraphTensor
from lockstep_export.adopt.inputs import Described, constant_table, describe_inputs, ids_of, vocabulary
from lockstep_export.adopt.oneshot import inputs_tables, longest
from lockstep_export.adopt.pairing import Pair
from lockstep_export.adopt.report import Report
from lockstep_export.adopt.source import (
    DECODER,
    ENCODER,
    MODEL,
    PREFILL,
    STEP,
    TOKENIZER,
    WITH_PAST,
    Source,
    check_vocabulary,
)
from lockstep_export.errors import DescriptionError
from lockstep_export.manifest import Table

PAST = "past"
_RULES = (
    ("repetition_penalty", "repetition_penalty", 1.0),
    ("no_repeat", "no_repeat_ngram_size", 0),
    ("beams", "num_beams", 1),
    ("length_penalty", "length_penalty", 1.0),
    ("early_stopping", "early_stopping", False),
)
"""Keys of [generation], their names in generation_config.json, and defaults."""

_CACHE_BYTES = 4 << 30
_MOST_SEQUENCES = 256


def decoder_table(source: Source, step_file: str, pairs: Sequence[Pair], report: Report) -> Table:
    """model.toml of a decoder: one graph for prompts and steps, two, or a step graph only."""
    step = source.graphs[step_file]
    found = describe_inputs(step, _inputs(pairs))
    ids = ids_of(found)
    assert ids is not None
    scores = scores_of(step, pairs)
    size = vocabulary(step, ids, source, report)
    if size is not None:
        check_vocabulary(source, size)
    _check_width(scores, size)
    table: Table = {"task": "generate"}
    report.decide("task", "generate", f"it takes {ids.name} and caches, and returns {scores.name}")
    table |= text_table(source, report)
    table |= generation_table(source, report)
    growing = [pair for pair in pairs if growing_axis(pair) is not None]
    if growing:
        table["lengths"] = {PAST: {"max": longest(source, PAST, report)}}
    table["roles"] = {"input": ids.name, "scores": scores.name}
    prefill = _prefill(source, step_file, pairs, growing, report)
    if prefill is not None:
        table["prefill"] = _prefill_table(source, prefill, pairs, scores.name, bool(growing), report)
    if growing:
        table["stepwise"] = {"graph": step_file, "max_sequences": sequences(growing, table, report)}
    else:
        table["stepwise"] = {"graph": step_file}
    table["stepwise"] |= {
        "inputs": step_inputs(step, found, bool(growing), size, source, report),
        "outputs": outputs_tables(step, pairs),
        "state": [state_table(step, pair, PAST, report, prefill=prefill is not None) for pair in pairs],
    }
    return table


def tensors_table(source: Source, step_file: str, pairs: Sequence[Pair], report: Report) -> Table:
    """model.toml of a step over tensors: callers send each element, and the server keeps the states."""
    step = source.graphs[step_file]
    found = describe_inputs(step, _inputs(pairs))
    report.decide("task", "tensor, step by step", f"{len(pairs)} states; nothing says what its outputs mean")
    growing = any(growing_axis(pair) is not None for pair in pairs)
    table: Table = {"task": "tensor"}
    if growing:
        table["lengths"] = {PAST: {"max": longest(source, PAST, report)}}
    table["stepwise"] = {
        "graph": step_file,
        "inputs": step_inputs(step, found, growing, None, source, report),
        "outputs": outputs_tables(step, pairs),
        "state": [state_table(step, pair, PAST, report) for pair in pairs],
    }
    return table


def _prefill(
    source: Source, step_file: str, pairs: Sequence[Pair], growing: Sequence[Pair], report: Report
) -> str | None:
    """The graph that reads prompts; None if prompts go through steps."""
    for name in (PREFILL, DECODER):
        if name in source.graphs and name != step_file:
            report.decide("prompts", f"in one run of {name}", "its name")
            return name
    step = source.graphs[step_file]
    ids = ids_of(describe_inputs(step, _inputs(pairs)))
    if growing and ids is not None and ids.rank == 2 and not isinstance((ids.shape or ())[-1], int):
        decided = f"in one run of {step_file}, with empty caches"
        report.decide("prompts", decided, f"{ids} takes several ids at once")
        return step_file
    report.decide("prompts", "step by step", "no graph reads several ids at once")
    return None


def _prefill_table(
    source: Source, file: str, pairs: Sequence[Pair], scores: str, growing: bool, report: Report
) -> Table:
    graph = source.graphs[file]
    carried = [name for name in _inputs(pairs) if graph.input(name) is not None]
    found = describe_inputs(graph, carried)
    constants = {name for name, one in found.items() if one.meaning == "constant"}
    others = {name: one for name, one in found.items() if name not in constants}
    inputs = inputs_tables(graph, others, PAST if growing else "prompt", "prefill", source, report)
    for name in constants:
        inputs |= _constant(found[name].tensor, "prefill", False, source, report)
    table: Table = {"graph": file, "inputs": inputs}
    if graph.output(scores) is not None:
        table["outputs"] = {scores: scores_table(graph, graph.require_output(scores), PAST)}
    return table


def scores_table(graph: Graph, scores: GraphTensor, length: str) -> Table:
    """Scores at every position have the length of the prompt."""
    axes: Table = {"batch_axis": graph.batch_axis(scores) or 0}
    if scores.rank == 3 and not isinstance((scores.shape or ())[1], int):
        axes["lengths"] = {1: length}
    return axes


def step_inputs(
    step: Graph,
    found: Mapping[str, Described],
    growing: bool,
    size: int | None,
    source: Source,
    report: Report,
    memory: str = "",
) -> Table:
    """The inputs of a step that are no states. `memory` is the named length of a source, if there is one."""
    tables: Table = {}
    for name, one in found.items():
        tensor, batch = one.tensor, step.batch_axis(one.tensor)
        axes: Table = {} if batch is None else {"batch_axis": batch}
        of_memory = bool(memory) and "encoder" in name.lower()
        match one.meaning:
            case "ids":
                tables[name] = axes | ({} if size is None else {"range": [0, size]})
            case "mask" if of_memory:
                tables[name] = axes | {"lengths": {1: memory}, "generated": "mask", "of": memory}
                report.decide(name, "1 for real elements of the source", one.why)
            case "mask" if growing and tensor.rank == 2:
                tables[name] = axes | {"generated": "mask", "of": PAST}
                tables[name] |= {"new": True} if _covers_new(tensor, step) else {"lengths": {1: PAST}}
                new = "and the new one" if _covers_new(tensor, step) else "only"
                report.decide(
                    name, f"1 for the elements of the caches {new}, filled in by the server", one.why
                )
            case "positions" if growing:
                tables[name] = axes | {"generated": "positions", "of": PAST}
                report.decide(name, "the number of elements so far, filled in by the server", one.why)
            case "lengths" if growing:
                tables[name] = axes | {"generated": "lengths", "of": PAST}
                report.decide(name, "the elements of the caches, filled in by the server", one.why)
            case "constant":
                tables |= _constant(tensor, "stepwise", True, source, report)
            case _:
                tables[name] = axes
                report.decide(name, f"{tensor}, in each step", one.why)
    return {name: keys for name, keys in tables.items() if keys}


def _constant(tensor: GraphTensor, section: str, after: bool, source: Source, report: Report) -> Table:
    """A constant; of a merged decoder, whether there is a cache."""
    if tensor.name == "use_cache_branch":
        report.decide(tensor.name, "false for prompts, true for steps", "its name")
        keys: Table = {"value": after}
    else:
        keys = constant_table(tensor, section, source, report)
    return {tensor.name: keys} if keys else {}


def _covers_new(mask: GraphTensor, step: Graph) -> bool:
    """Whether a mask covers the caches and the new elements: its axis is not that of a cache."""
    axis = (mask.shape or (None, None))[-1]
    return not any(
        axis is not None and axis in (tensor.shape or ()) for tensor in step.inputs if tensor != mask
    )


def outputs_tables(step: Graph, pairs: Sequence[Pair], ignored: Collection[str] = ()) -> Table:
    """The outputs of a step that are no states."""
    replaced = {pair.output.name for pair in pairs if pair.output is not None} | set(ignored)
    tables: Table = {}
    for output in step.outputs:
        if output.name not in replaced and (batch := step.batch_axis(output)) is not None:
            tables[output.name] = {"batch_axis": batch}
    return tables


def state_table(
    step: Graph, pair: Pair, length: str, report: Report, *, prefill: bool = False, memory: str = ""
) -> Table:
    """One [[stepwise.state]]."""
    tensor, axis = pair.input, growing_axis(pair)
    batch = step.batch_axis(tensor)
    if batch is None:
        raise DescriptionError(
            f"state {tensor}: none of its axes is open, so there is none for the rows: the graph takes one"
            " sequence only. Export it with a dynamic batch axis"
        )
    table: Table = {"name": pair.name, "input": tensor.name}
    if pair.output is not None:
        table["output"] = pair.output.name
    if prefill:
        table["prefill"] = pair.output.name if pair.output is not None else _present(tensor.name)
    table["batch_axis"] = batch
    if axis is not None:
        table |= {"lengths": {axis: length}, "grows": True}
        decided = f"a cache that grows along axis {axis}, rows on axis {batch}"
    elif pair.output is None:
        others = [i for i, size in enumerate(tensor.shape or ()) if not isinstance(size, int) and i != batch]
        table |= {"lengths": {others[0]: memory}} if others and memory else {}
        decided = f"carried unchanged, rows on axis {batch}"
    else:
        decided = f"a state of fixed size, rows on axis {batch}"
    report.decide(tensor.name, decided, _why(pair))
    return table


def _why(pair: Pair) -> str:
    """The reason without numbers, so that similar states share a line of the report."""
    if pair.output is None or pair.why == "as given":
        return pair.why
    return f"continued by {pair.output.name}" if not any(map(str.isdigit, pair.input.name)) else "named alike"


def _present(name: str) -> str:
    return name.replace("past_key_values", "present", 1)


def growing_axis(pair: Pair) -> int | None:
    """The axis along which a step adds an element; by names if the graph has no symbols."""
    if (axis := pair.growing_axis) is not None:
        return axis
    named = pair.input.name.startswith("past") and pair.output is not None
    open_axes = [i for i, size in enumerate(pair.input.shape or ()) if not isinstance(size, int)]
    return open_axes[-1] if named and len(open_axes) == 2 else None


def scores_of(step: Graph, pairs: Sequence[Pair]) -> GraphTensor:
    """The scores of the next token."""
    replaced = {pair.output.name for pair in pairs if pair.output is not None}
    floats = [one for one in step.outputs if one.name not in replaced and one.kind in FLOATS]
    named = [one for one in floats if one.name in ("logits", "scores", "log_probs", "probabilities")]
    if not (named or len(floats) == 1):
        names = ", ".join(str(one) for one in floats) or "none"
        raise DescriptionError(f"{step.file}: which output has the scores of a token is unclear: {names}")
    return (named or floats)[0]


def text_table(source: Source, report: Report) -> Table:
    """[text] of a model that generates."""
    text: Table = {}
    if source.tokenizers:
        text["source"] = TOKENIZER
    else:
        ask_tokenizer(report)
        return {}
    if begin := source.id_of("bos_token_id"):
        text["begin"] = begin[0]
        report.decide("begin", f"id {begin[0]} begins a text without a prompt", "bos_token_id")
    text |= end_ids(source, report)
    return {"text": text}


def ask_tokenizer(report: Report) -> None:
    report.ask(
        "There is no tokenizer.json, so callers send and get ids. transformers writes one:"
        " AutoTokenizer.from_pretrained(…).save_pretrained(…).",
        "text",
        f'source = "{TOKENIZER}"',
    )


def end_ids(source: Source, report: Report) -> Table:
    """The ids that end a text."""
    end = source.id_of("eos_token_id")
    if not end:
        report.ask("No id is known to end a text, so texts are as long as requests allow.", "text", "end = 2")
        return {}
    report.decide("end", f"id {' or '.join(map(str, end))} ends a text", "eos_token_id")
    return {"end": end[0] if len(end) == 1 else end}


def generation_table(source: Source, report: Report) -> Table:
    """[generation]: what generation_config.json says of the choice of tokens."""
    words = [word for word in source.generation.get("bad_words_ids") or () if len(word) == 1]
    forbidden = [*source.id_of("suppress_tokens"), *(word[0] for word in words)]
    first = source.id_of("begin_suppress_tokens")
    rules: Table = {}
    for key, ids in (
        ("forced_first", source.id_of("forced_bos_token_id")),
        ("forced_last", source.id_of("forced_eos_token_id")),
    ):
        rules |= {key: ids[0]} if ids else {}
    rules |= {"forbidden": sorted(set(forbidden))} if forbidden else {}
    rules |= {"forbidden_first": first} if first else {}
    fewest = source.generated("min_new_tokens")
    if not fewest and ENCODER in source.graphs:  # it counts the first id; of a decoder, the prompt too
        fewest = (source.generated("min_length") or 1) - 1
    rules |= {"min_tokens": fewest} if fewest else {}
    for key, name, default in _RULES:
        value = source.generated(name)
        if isinstance(value, int | float) and value != default:
            rules[key] = type(default)(value)
    for key, value in rules.items():
        report.decide(key, str(value), "generation_config.json")
    return {"generation": rules} if rules else {}


def sequences(growing: Sequence[Pair], table: Table, report: Report) -> int:
    """`max_sequences`: as many as have room for full caches in 4 GiB."""
    most: int = table["lengths"][PAST]["max"]
    element = sum(
        prod(size for size in pair.input.shape or () if isinstance(size, int)) * _bytes(pair.input.kind)
        for pair in growing
    )
    count = max(1, min(_MOST_SEQUENCES, _CACHE_BYTES // max(1, element * most)))
    size = element * most / (1 << 20)
    why = f"full caches take {size:.3g} MiB a sequence; 4 GiB, or 256 sequences"
    report.decide("max_sequences", str(count), why)
    return count


def _bytes(kind: str) -> int:
    number = onnx.TensorProto.DataType.Value(kind)
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(number).itemsize
    return itemsize


def _check_width(scores: GraphTensor, ids: int | None) -> None:
    width = (scores.shape or (None,))[-1]
    if isinstance(width, int) and ids is not None and width > ids:
        raise DescriptionError(
            f"{scores}: {width} scores, but {ids} ids that the model takes: it could generate an id that it"
            " cannot read; correct the graph"
        )


def _inputs(pairs: Sequence[Pair]) -> list[str]:
    return [pair.input.name for pair in pairs]


def step_file_of(source: Source) -> str:
    """The graph of one step: by its name, else the only one."""
    for name in (STEP, WITH_PAST, MODEL):
        if name in source.graphs:
            return name
    return next(iter(source.graphs))
