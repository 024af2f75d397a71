"""The tables of encoder-decoders, such as Marian, T5 and BART.

encoder_model.onnx             the source → its vectors
decoder_model.onnx             the first ids, these vectors → scores, caches of decoder and source
decoder_with_past_model.onnx   an id and the caches → scores, longer caches of the decoder
decoder_model_merged.onnx      both, chosen by `use_cache_branch`
"""

from collections.abc import Mapping

from lockstep_export.adopt.graph import Graph, GraphTensor
from lockstep_export.adopt.inputs import Described, describe_inputs, ids_of, vocabulary
from lockstep_export.adopt.oneshot import inputs_tables, longest
from lockstep_export.adopt.pairing import Pair, is_carried, pair_states
from lockstep_export.adopt.report import Report
from lockstep_export.adopt.source import (
    DECODER,
    ENCODER,
    MERGED,
    TOKENIZER,
    WITH_PAST,
    Source,
    check_vocabulary,
)
from lockstep_export.adopt.stepwise import (
    PAST,
    ask_tokenizer,
    end_ids,
    generation_table,
    growing_axis,
    outputs_tables,
    scores_of,
    scores_table,
    sequences,
    state_table,
    step_inputs,
)
from lockstep_export.errors import DescriptionError
from lockstep_export.manifest import Table

SOURCE = "source"
_TRANSLATORS = ("marian", "m2m_100", "mbart", "nllb", "fsmt")


def seq2seq_table(source: Source, task: str | None, given: Mapping[str, str], report: Report) -> Table:
    """model.toml of an encoder-decoder.

    Raises:
        DescriptionError: a graph is missing, or what its tensors mean cannot be decided.
    """
    first, step_file = _files(source)
    encoder, prefill, step = (source.graphs[name] for name in (ENCODER, first, step_file))
    pairs = _pairs(step, given)
    found = describe_inputs(step, [pair.input.name for pair in pairs])
    ids, reads = ids_of(found), ids_of(describe_inputs(encoder, ()))
    if ids is None or reads is None:
        raise DescriptionError(f"{source.path}: an encoder and a decoder need one input of token ids each")
    size = vocabulary(step, ids, source, report)
    if (of_source := vocabulary(encoder, reads, source, report)) is not None:
        check_vocabulary(source, of_source)
    growing = [pair for pair in pairs if growing_axis(pair) is not None]
    lengths = {name: {"max": longest(source, name, report)} for name in (SOURCE, PAST)}
    table: Table = {"task": _task(source, task, report), "text": _text_table(source, report)}
    table |= generation_table(source, report)
    table |= {"lengths": lengths, "roles": {"input": ids.name, "scores": scores_of(step, pairs).name}}
    inputs = inputs_tables(encoder, describe_inputs(encoder, ()), SOURCE, "encoder", source, report)
    table["encoder"] = {
        "graph": ENCODER,
        "inputs": inputs,
        "outputs": {one.name: _over_source(encoder, one) for one in encoder.outputs},
    }
    table["prefill"] = _prefill_table(encoder, prefill, first, step, pairs, size, report)
    table["stepwise"] = {
        "graph": step_file,
        "max_sequences": sequences(growing, table, report),
        "inputs": _step_inputs(step, found, size, source, report),
        "outputs": outputs_tables(step, pairs, ignored=_carried_outputs(step)),
        "state": [state_table(step, pair, PAST, report, prefill=True, memory=SOURCE) for pair in pairs],
    }
    return table


def _files(source: Source) -> tuple[str, str]:
    if MERGED in source.graphs:
        return MERGED, MERGED
    for name in (DECODER, WITH_PAST):
        if name not in source.graphs:
            raise DescriptionError(
                f"{source.path}: no {name}; an encoder-decoder has {ENCODER} and {MERGED}, or {ENCODER},"
                f" {DECODER} and {WITH_PAST}."
                " optimum exports its caches with --task text2text-generation-with-past"
            )
    return DECODER, WITH_PAST


def _pairs(step: Graph, given: Mapping[str, str]) -> list[Pair]:
    """The states: caches of the decoder, which grow, and those of the source, which are carried unchanged."""
    carried = [tensor for tensor in step.inputs if is_carried(tensor.name) and tensor.name not in given]
    pairs = pair_states(step, {**dict.fromkeys((tensor.name for tensor in carried), ""), **given})
    why = "keys and values of the source"
    both = [*pairs, *(Pair(tensor, None, why) for tensor in carried)]
    order = [tensor.name for tensor in step.inputs]
    return sorted(both, key=lambda pair: order.index(pair.input.name))


def _task(source: Source, task: str | None, report: Report) -> str:
    if task is not None:
        report.decide("task", task, "as given")
        return task
    kind = str(source.config.get("model_type", ""))
    task = "translate" if kind in _TRANSLATORS else "generate"
    report.decide("task", task, f"model_type {kind or 'unknown'}; --task translate or generate changes it")
    return task


def _text_table(source: Source, report: Report) -> Table:
    text: Table = {"source": TOKENIZER} if source.tokenizers else {}
    if not source.tokenizers:
        ask_tokenizer(report)
    begin = source.id_of("decoder_start_token_id") or source.id_of("bos_token_id")
    if not begin:
        raise DescriptionError(
            f"{source.path}: the id that a text begins with is unknown; put a config.json with"
            " decoder_start_token_id beside the graphs"
        )
    report.decide("begin", f"id {begin[0]} begins a text", "decoder_start_token_id")
    return text | {"begin": begin[0]} | end_ids(source, report)


def _prefill_table(
    encoder: Graph,
    prefill: Graph,
    file: str,
    step: Graph,
    pairs: list[Pair],
    size: int | None,
    report: Report,
) -> Table:
    found = describe_inputs(prefill, [pair.input.name for pair in pairs])
    ids = ids_of(found)
    inputs: Table = {}
    for name, one in found.items():
        tensor = one.tensor
        if tensor == ids:
            inputs[name] = {"batch_axis": prefill.batch_axis(tensor) or 0, "lengths": {1: PAST}}
            inputs[name] |= {} if size is None else {"range": [0, size]}
        elif one.meaning == "mask":
            inputs[name] = _over_source(prefill, tensor) | {"generated": "mask", "of": SOURCE}
        elif name == "use_cache_branch":
            inputs[name] = {"value": False}
        elif one.meaning == "data":
            inputs[name] = _over_source(prefill, tensor) | {"encoder": _encoder_output(encoder, tensor)}
            report.decide(name, f"output {inputs[name]['encoder']} of {ENCODER}", "its name, type and axes")
        else:
            raise DescriptionError(f"{prefill.file}: what {tensor} means is unknown")
    scores = scores_of(step, pairs).name
    table: Table = {"graph": file, "inputs": inputs}
    if prefill.output(scores) is not None:
        table["outputs"] = {scores: scores_table(prefill, prefill.require_output(scores), PAST)}
    return table


def _encoder_output(encoder: Graph, tensor: GraphTensor) -> str:
    """The output of the encoder that an input of the decoder takes."""
    fitting = [one for one in encoder.outputs if one.kind == tensor.kind and one.rank == tensor.rank]
    named = [one for one in fitting if one.name in (tensor.name, "last_hidden_state")]
    if not (named or len(fitting) == 1):
        names = ", ".join(map(str, encoder.outputs))
        raise DescriptionError(f"{encoder.file}: which output is {tensor} of the decoder is unclear: {names}")
    return (named or fitting)[0].name


def _over_source(graph: Graph, tensor: GraphTensor) -> Table:
    axes: Table = {"batch_axis": graph.batch_axis(tensor) or 0}
    if tensor.rank > 1 and not isinstance((tensor.shape or ())[1], int):
        axes["lengths"] = {1: SOURCE}
    return axes


def _step_inputs(
    step: Graph, found: Mapping[str, Described], size: int | None, source: Source, report: Report
) -> Table:
    """A merged decoder takes the source's vectors in a step too, and ignores them."""
    unread = [one.tensor for one in found.values() if "hidden_states" in one.tensor.name]
    others = {name: one for name, one in found.items() if one.tensor not in unread}
    tables = step_inputs(step, others, True, size, source, report, memory=SOURCE)
    for tensor in unread:
        tables[tensor.name] = {"batch_axis": step.batch_axis(tensor) or 0, "value": 0, "sizes": {1: 1}}
        report.decide(tensor.name, "zeros in a step", "with caches, the graph does not read it")
    return tables


def _carried_outputs(step: Graph) -> set[str]:
    """What a merged decoder returns for the source: empty in a step."""
    return {output.name for output in step.outputs if {"present", "encoder"} <= set(output.name.split("."))}
