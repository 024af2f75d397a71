"""The whole of an adoption: find, decide, test, publish."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lockstep_export import manifest
from lockstep_export.adopt.inputs import describe_inputs, ids_of, is_length
from lockstep_export.adopt.oneshot import oneshot_table
from lockstep_export.adopt.pairing import Pair, pair_states
from lockstep_export.adopt.report import Report
from lockstep_export.adopt.selftest import FAILED, SelfTestError, self_test
from lockstep_export.adopt.seq2seq import seq2seq_table
from lockstep_export.adopt.source import ENCODER, MODEL, Source, find_source, open_tokenizer
from lockstep_export.adopt.stepwise import PAST, decoder_table, step_file_of, tensors_table
from lockstep_export.errors import DescriptionError
from lockstep_export.manifest import TASKS, Table
from lockstep_export.publication import MANIFEST, drafting, publish


@dataclass(frozen=True)
class Adoption:
    """What was published, and the report about it."""

    folder: Path
    report: Report


def adopt(
    path: Path,
    folder: Path,
    *,
    task: str | None = None,
    states: Mapping[str, str] | None = None,
    version: int = 1,
    overwrite: bool = False,
    link: bool = False,
    untested: bool = False,
    report: Report | None = None,
    begin: Callable[[str], None] = lambda _: None,
) -> Adoption:
    """Makes `folder`, models/NAME, from graphs that others have exported. Nothing in `path` changes.

    Args:
        task: of the manifest, where the files do not say it.
        states: outputs by input, where names do not say it; "" for an input that is no state.
        overwrite: replace the version if it exists.
        link: make hard links to the graphs instead of copies, where the file system can.
        untested: publish the model even if the server refuses it.
        report: filled in also if an error follows.
        begin: called as each part of the work begins.

    Raises:
        DescriptionError: what the graphs mean cannot be decided; the message names the remedy.
        SelfTestError: the server refuses the model. Nothing is published.
    """
    report = Report() if report is None else report
    if task is not None and task not in TASKS:
        raise DescriptionError(f"--task: unknown task {task!r}; available: {', '.join(TASKS)}")
    if (folder / str(version)).exists() and not overwrite:
        raise DescriptionError(
            f"{folder / str(version)} exists; choose another --version or another name, or replace it with"
            " --overwrite"
        )
    begin("reading the graphs")
    source = find_source(path, report)
    table = decide(source, task, states or {}, report)
    with drafting(folder) as draft:
        model = draft / folder.name
        begin("copying the graphs")
        _lay_out(source, model, version, link)
        text = _write(model, table, source)
        try:
            report.findings += self_test(draft, folder.name, version, begin)
            if _has_no_room(report.findings, table):
                text = _with_room(draft, model, version, table, source, report, begin)
        except SelfTestError as error:
            if not untested:
                raise
            report.findings.append(f"the server refuses the model: {error}")
        for file in (model / str(version)).iterdir():
            file.rename(draft / file.name)
        tokenizers = {name: open_tokenizer(file) for name, file in source.tokenizers.items()}
        shutil.rmtree(model)
        publish(draft, folder, version, text, tokenizers)
    return Adoption(folder, report)


def decide(source: Source, task: str | None, given: Mapping[str, str], report: Report) -> Table:
    """The tables of model.toml.

    Raises:
        DescriptionError: as `adopt`.
    """
    if ENCODER in source.graphs and len(source.graphs) > 1:
        return seq2seq_table(source, task, given, report)
    step_file = step_file_of(source)
    step = source.graphs[step_file]
    pairs = _states(source, step_file, given)
    if not pairs:
        if task in ("generate", "translate"):
            raise DescriptionError(
                f"{step.file}: task {task} needs a graph that carries states, and none of its inputs"
                f" ({', '.join(tensor.name for tensor in step.inputs)}) is continued by an output; export it"
                " with its caches, or name them: --state INPUT=OUTPUT"
            )
        return oneshot_table(_alone(source, step_file), task, report)
    found = describe_inputs(step, [pair.input.name for pair in pairs])
    if task == "tensor" or (task is None and not _is_decoder(found, source)):
        return tensors_table(source, step_file, pairs, report)
    if ids_of(found) is None:
        raise DescriptionError(
            f"{step.file}: no input takes token ids, which task {task or 'generate'} needs"
        )
    return decoder_table(source, step_file, pairs, report)


def _states(source: Source, step_file: str, given: Mapping[str, str]) -> list[Pair]:
    step = source.graphs[step_file]
    pairs = pair_states(step, given)
    paired = {pair.input.name for pair in pairs}
    has_data = any(tensor.name not in paired for tensor in step.inputs)
    if given or (has_data and not all(is_length(pair.input) for pair in pairs)):
        return pairs
    return []  # an image and a better image, lengths before and after: named alike, and no states


def _is_decoder(found: Mapping[str, object], source: Source) -> bool:
    has_ids = ids_of(found) is not None  # type: ignore[arg-type]
    return has_ids and (bool(source.tokenizers) or bool(source.config) or "input_ids" in found)


def _alone(source: Source, file: str) -> Source:
    return source if file == MODEL else Source(**{**vars(source), "graphs": {MODEL: source.graphs[file]}})


def _has_no_room(findings: list[str], table: Table) -> bool:
    """Whether steps fail that may be those with full caches."""
    return PAST in table.get("lengths", {}) and any(FAILED in finding for finding in findings)


def _with_room(
    draft: Path,
    model: Path,
    version: int,
    table: Table,
    source: Source,
    report: Report,
    begin: Callable[[str], None],
) -> str:
    """The text of a manifest with one element less in a cache, if that mends the steps: some graphs have
    tables of as many positions as the model reads, and a step takes a padded cache and one element more."""
    before = table["lengths"][PAST]["max"]
    table["lengths"][PAST]["max"] = before - 1
    text = _write(model, table, source)
    findings = self_test(draft, model.name, version, begin)
    if any(FAILED in finding for finding in findings):
        table["lengths"][PAST]["max"] = before
        return _write(model, table, source)
    report.findings[:] = findings
    report.decisions[:] = [
        one for one in report.decisions if (one.subject, one.decided) != (PAST, f"at most {before}")
    ]
    report.decide(PAST, f"at most {before - 1}", f"the graph fails with {before} elements and one more")
    return text


def _write(model: Path, table: Table, source: Source) -> str:
    """Write model.toml; returns its text."""
    text = manifest.write(f"{model.name}, adopted from {source.path.name}", table)
    (model / MANIFEST).write_text(text, encoding="utf-8")
    return text


def _lay_out(source: Source, model: Path, version: int, link: bool) -> None:
    """The folder as the server reads it, but for the manifest."""
    graphs = model / str(version)
    graphs.mkdir(parents=True)
    for name, graph in source.graphs.items():
        _bring(graph.file, graphs / name, link)
        for weights in graph.weights:
            if not (graphs / weights).exists():
                (graphs / weights).parent.mkdir(parents=True, exist_ok=True)
                _bring(graph.file.parent / weights, graphs / weights, link)
    for name, file in source.tokenizers.items():
        shutil.copyfile(file, model / name)


def _bring(file: Path, place: Path, link: bool) -> None:
    """A copy, or a hard link: the server opens nothing through a link that leads out of its repository."""
    if link:
        try:
            os.link(file.resolve(), place)
            return
        except OSError:  # another file system
            pass
    shutil.copyfile(file, place)
