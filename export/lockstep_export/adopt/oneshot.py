"""The tables of a graph that reads whole inputs: classifiers, taggers, sentence encoders, plain tensors."""

from typing import Any

from lockstep_export.adopt.graph import FLOATS, Graph, GraphTensor
from lockstep_export.adopt.inputs import Described, constant_table, describe_inputs, ids_of, vocabulary
from lockstep_export.adopt.report import Report
from lockstep_export.adopt.source import MODEL, TOKENIZER, Source, check_vocabulary
from lockstep_export.errors import DescriptionError
from lockstep_export.manifest import Table

DEFAULT_LONGEST = 512
_CLASSIFIERS, _TAGGERS = "ForSequenceClassification", "ForTokenClassification"
_MULTI_LABEL = "multi_label_classification"
_VECTORS = (
    "sentence_embedding", "pooled_output", "text_embeds", "embedding", "embeddings", "last_hidden_state",
    "token_embeddings",
)  # fmt: skip
_POOLINGS = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


def oneshot_table(source: Source, task: str | None, report: Report) -> Table:
    """model.toml of a one-shot model."""
    graph = source.graphs[MODEL]
    found = describe_inputs(graph, ())
    ids = ids_of(found)
    task = task or _task(source, graph, ids, report)
    length = "tokens" if ids is not None else "length"
    inputs = inputs_tables(graph, found, length, "", source, report)
    outputs = _outputs(graph, inputs, ids, length, report)
    table: Table = {"task": task}
    if task in ("classify", "token-classification"):
        table["labels"] = _labels(source, graph, _scores(graph), report)
    if task != "tensor":
        _require_ids(task, ids, graph)
        if source.tokenizers:
            table["text"] = {"source": TOKENIZER}
        else:
            report.ask("There is no tokenizer.json, so callers send ids.", "text", f'source = "{TOKENIZER}"')
    if _has_length(inputs):
        table["lengths"] = {length: {"max": longest(source, length, report)}}
    table |= {"inputs": inputs, "outputs": outputs}
    table["roles"] = _roles(task, source, graph, outputs, ids, report)
    return table


def _task(source: Source, graph: Graph, ids: GraphTensor | None, report: Report) -> str:
    architecture = source.architecture
    labels = "id2label" in source.config or "num_labels" in source.config
    if architecture.endswith((_CLASSIFIERS, _TAGGERS)):
        task = "classify" if architecture.endswith(_CLASSIFIERS) else "token-classification"
        report.decide("task", task, f"config.json: {architecture}")
        return task
    names = [output.name for output in graph.outputs]
    vector = next((name for name in _VECTORS if name in names), None)
    if ids is not None and vector is not None and not labels:
        report.decide("task", "encode", f"it takes ids and returns {vector}")
        return "encode"
    report.decide("task", "tensor", "nothing says what its outputs mean")
    if ids is not None and "logits" in names:
        report.ask("Scores of a text need labels, such as:", "", 'task = "classify", labels = ["no", "yes"]')
    return "tensor"


def inputs_tables(
    graph: Graph, found: dict[str, Described], length: str, section: str, source: Source, report: Report
) -> Table:
    """The inputs of a graph that reads whole sequences of one named length."""
    ids = ids_of(found)
    place = f"{section}.inputs" if section else "inputs"
    tables: Table = {}
    where = f"{section} " if section else ""
    for name, one in found.items():
        tensor, batch = one.tensor, graph.batch_axis(one.tensor)
        axes: Table = {} if batch is None else {"batch_axis": batch}
        time = _time_axis(tensor, batch)
        lengths = {} if time is None else {"lengths": {time: length}}
        match one.meaning:
            case "ids":
                size = vocabulary(graph, tensor, source, report)
                if size is not None and tensor == ids:
                    check_vocabulary(source, size)
                pad = source.id_of("pad_token_id")
                tables[name] = axes | lengths
                tables[name] |= (
                    {"pad": pad[0]} if pad and lengths and 0 <= pad[0] < (size or pad[0] + 1) else {}
                )
                tables[name] |= {} if size is None else {"range": [0, size]}
                report.decide(where + name, "token ids", one.why)
            case "mask" if ids is not None or time is not None:
                tables[name] = axes | lengths | {"generated": "mask", "of": length}
                report.decide(where + name, "1 for real elements, filled in by the server", one.why)
            case "types" if lengths:
                tables[name] = axes | lengths | {"generated": "zeros", "of": length}
                report.decide(where + name, "zeros, filled in by the server", one.why)
            case "positions" if lengths:
                tables[name] = axes | lengths | {"generated": "positions", "of": length}
                report.decide(where + name, "0, 1, 2, …, filled in by the server", one.why)
            case "lengths" if batch is not None:
                tables[name] = axes | {"generated": "lengths", "of": length}
                report.decide(where + name, "the length of each row, filled in by the server", one.why)
            case "constant":
                tables[name] = constant_table(tensor, section or "", source, report)
                if not tables[name]:
                    del tables[name]
            case _:
                tables[name] = axes | lengths
                report.decide(where + name, _axes(tensor, batch, time, length), one.why)
                if batch is None:
                    _ask_batch(tensor, place, report)
    return tables


def _ask_batch(tensor: GraphTensor, place: str, report: Report) -> None:
    report.ask(
        f"{tensor} has no open axis for the rows, so requests do not share runs; export it with one.",
        f"{place}.{tensor.name}",
        "batch_axis = 0",
    )


def _time_axis(tensor: GraphTensor, batch: int | None) -> int | None:
    """The axis that varies beside that of the rows, if there is exactly one."""
    varying = [i for i, axis in enumerate(tensor.shape or ()) if not isinstance(axis, int) and i != batch]
    return varying[0] if len(varying) == 1 else None


def _axes(tensor: GraphTensor, batch: int | None, time: int | None, length: str) -> str:
    names = {batch: "batch", time: length}
    shown = [str(names.get(i) or ("?" if a is None else a)) for i, a in enumerate(tensor.shape or ())]
    return f"[{', '.join(shown)}]"


def _outputs(graph: Graph, inputs: Table, ids: GraphTensor | None, length: str, report: Report) -> Table:
    """The outputs: an axis with the symbol of the length of an input has this length."""
    symbols = {
        tensor.shape[axis]
        for tensor in graph.inputs
        if tensor.shape is not None
        for axis in inputs.get(tensor.name, {}).get("lengths", {})
    } - {None}
    tables: Table = {}
    for output in graph.outputs:
        batch = graph.batch_axis(output)
        axes: Table = {} if batch is None else {"batch_axis": batch}
        shape = output.shape or ()
        times = [i for i, axis in enumerate(shape) if i != batch and axis in symbols]
        if not times and ids is not None and output.rank == 3 and shape[1] is None:
            times = [1]
        tables[output.name] = axes | ({"lengths": {times[0]: length}} if len(times) == 1 else {})
        others = [i for i, axis in enumerate(shape) if i != batch and not isinstance(axis, int)]
        if symbols and not times and others and batch is not None:
            report.ask(
                f"{output} has a length that is computed from {length}, so that it cannot be cut:",
                f"outputs.{output.name}",
                f'lengths = {{{others[0]} = "ceil({length} / 2)"}}',
            )
    return tables


def _has_length(inputs: Table) -> bool:
    return any("lengths" in one or "of" in one for one in inputs.values())


def longest(source: Source, length: str, report: Report) -> int:
    """The limit of a named length."""
    if found := source.longest:
        report.decide(length, f"at most {found[0]}", found[1])
        return found[0]
    report.decide(length, f"at most {DEFAULT_LONGEST}", "the default; nothing says how much the model reads")
    text = f"The longest {length} that the model reads is unknown."
    report.ask(text, f"lengths.{length}", f"max = {DEFAULT_LONGEST}")
    return DEFAULT_LONGEST


def _scores(graph: Graph) -> GraphTensor:
    floats = [output for output in graph.outputs if output.kind in FLOATS]
    named = [output for output in floats if output.name in ("logits", "scores", "probabilities", "output")]
    if not (named or floats):
        raise DescriptionError(f"{graph.file}: no output has scores")
    return (named or floats)[0]


def _labels(source: Source, graph: Graph, scores: GraphTensor, report: Report) -> list[str]:
    width = (scores.shape or (None,))[-1]
    named: Any = source.config.get("id2label") or {}
    labels = [str(named[key]) for key in sorted(named, key=int)]
    if labels and (not isinstance(width, int) or width == len(labels)):
        shown = ", ".join(labels[:4]) + (", …" if len(labels) > 4 else "")
        report.decide("labels", shown, "id2label of config.json")
        return labels
    if not isinstance(width, int):
        raise DescriptionError(
            f"{graph.file}: the labels of {scores} are unknown; put a config.json with id2label beside it"
        )
    labels = [f"LABEL_{index}" for index in range(width)]
    why = f"{scores.name} has {width} scores; nothing names them"
    report.decide("labels", f"{labels[0]} to {labels[-1]}", why)
    report.ask("The labels have no names.", "", f"labels = {labels}")
    return labels


def _roles(
    task: str, source: Source, graph: Graph, outputs: Table, ids: GraphTensor | None, report: Report
) -> Table:
    roles: Table = {} if ids is None else {"input": ids.name}
    if task in ("classify", "token-classification"):
        scores = _scores(graph)
        activation = "sigmoid" if source.config.get("problem_type") == _MULTI_LABEL else "softmax"
        if source.config.get("problem_type") == "regression" or (scores.shape or (None,))[-1] == 1:
            activation = "none"
        report.decide(scores.name, f"the scores, with {activation}", "problem_type of config.json"
                      if source.config.get("problem_type") else "one label of several")  # fmt: skip
        return roles | {"scores": scores.name, "activation": activation}
    if task == "encode":
        names = [output.name for output in graph.outputs]
        vector = next((name for name in _VECTORS if name in names), names[0])
        if "lengths" in outputs[vector]:
            outputs[vector] |= _pooling(source, vector, report)
        else:
            report.decide(vector, "the vector of a text", "its name")
        return roles | {"vector": vector}
    return roles


def _pooling(source: Source, vector: str, report: Report) -> Table:
    modes = [key for key, on in (source.pooling or {}).items() if on is True and key in _POOLINGS]
    if len(modes) == 1:
        pooling, why = _POOLINGS[modes[0]], f"{modes[0]} of 1_Pooling/config.json"
    else:
        pooling, why = "mean", "the usual one; there is no 1_Pooling/config.json"
        report.ask(f"How one vector is made of {vector} is a guess.", f"outputs.{vector}", 'pooling = "mean"')
    report.decide(vector, f"pooled by {pooling}" + (", scaled to length 1" if source.normalised else ""), why)
    return {"pooling": pooling} | ({"normalise": True} if source.normalised else {})


def _require_ids(task: str, ids: GraphTensor | None, graph: Graph) -> None:
    if ids is None:
        names = ", ".join(map(str, graph.inputs))
        raise DescriptionError(f"task {task}: it needs one input of token ids; the graph takes {names}")
