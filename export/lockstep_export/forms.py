"""The forms of one model: one-shot, prefill and step-wise graphs, from their checks to the published files.

forms → checks → tracer → graphs → proof against the modules → model.toml → publication
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lockstep_client.progress import ProgressDisplay
from lockstep_export import manifest
from lockstep_export.axes import ModuleOutput
from lockstep_export.checks import check_module
from lockstep_export.contract import InputContract
from lockstep_export.errors import ModuleError
from lockstep_export.graph_module import GraphModule
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.manifest import Table
from lockstep_export.model_toml import (
    batching_table,
    graph_table,
    lengths_table,
    model_table,
    tokenizer_files,
)
from lockstep_export.onnx import export_onnx
from lockstep_export.options import ExportOptions
from lockstep_export.parity import Difference, Parity, failed_run, table
from lockstep_export.proof import BATCHED, EXTRA_PADDING, PADDED, Answer, prove
from lockstep_export.publication import drafting, publish
from lockstep_export.samples import SampleRow, draw, stack
from lockstep_export.step_module import STEP, StepModule
from lockstep_export.step_proof import (
    LENGTHS,
    MOST,
    WARM_STEPS,
    WHOLE,
    Elements,
    ProofBatch,
    States,
    elements,
    forced,
    prefix_results,
    prove_exact,
    prove_steps,
    unbatched_results,
)
from lockstep_export.tasks import Translate
from lockstep_export.tracer_fallback import open_graph, prove_with_fallback, traceable
from lockstep_export.tracing import Tracer
from lockstep_export.written_step import WrittenStep

ONESHOT, PREFILL = "model.onnx", "prefill.onnx"
EXAMPLE_ROWS, EXAMPLE_LENGTH = 3, 7
LONGEST_STEPS = max(map(max, LENGTHS))
LONGEST_START = 40  # elements of a prefill from which steps are compared

Answers = Mapping[str, Answer]  # by file name of the graph
ReportProgress = Callable[[int, int, str], None]
"""Called with the number of finished parts, the total, and a description of the next part."""


class Parts:
    """Counts the parts of an export."""

    def __init__(self, total: int, report: ReportProgress | None) -> None:
        self._done, self._total, self._report = -1, total, report

    def begin(self, what: str) -> None:
        """Another part begins, and with it the one before is finished."""
        self._done += 1
        self._total = max(self._total, self._done + 1)  # a second tracer tries again
        if self._report is not None:
            self._report(self._done, self._total, what)


def _silent(_: str) -> None:
    """The progress that nobody asked for."""


@dataclass(frozen=True)
class WholeForm:
    """A module that reads whole sequences, and the file of its graph."""

    file: str
    graph_module: GraphModule

    @property
    def contract(self) -> InputContract:
        """The inputs."""
        return self.graph_module.contract

    @property
    def outputs(self) -> tuple[ModuleOutput, ...]:
        """The outputs."""
        return self.graph_module.outputs

    def graph_spec(self, tracer: Tracer) -> GraphSpec:
        """The graph, in a form that the tracer can follow."""
        contract, rng = self.contract, torch.Generator().manual_seed(1)
        lengths = {
            name: min(EXAMPLE_LENGTH + 2 * k, most)
            for k, (name, most) in enumerate(contract.max_lengths.items())
        }
        rows = [draw(contract, lengths, rng) for _ in range(EXAMPLE_ROWS)]
        return GraphSpec(
            self.file,
            traceable(self.graph_module, tracer),
            stack(contract, rows),
            {input_.name: input_.axes.graph_axes for input_ in contract.inputs},
            tuple(output.name for output in self.outputs),
            {output.name: _symbols(output) for output in self.outputs},
            positional=True,
        )

    def row(self, length: int, rng: torch.Generator) -> SampleRow:
        """A random row; several named lengths have the same size."""
        return draw(
            self.contract, {n: min(length, most) for n, most in self.contract.max_lengths.items()}, rng
        )


def _symbols(output: ModuleOutput) -> tuple[str, ...]:
    """The names of an output's axes as symbols of a graph, of which a formula is none."""
    return tuple(re.sub(r"\W+", "_", name).strip("_") for name in output.graph_axes)


@dataclass(frozen=True)
class ModelForms:
    """The forms of one model; at least a one-shot or a step-wise one. `module` and `contract` are those of
    the form that the model is declared with."""

    module: nn.Module
    contract: InputContract
    oneshot: WholeForm | None = None
    prefill: WholeForm | None = None
    step: StepModule | None = None

    @property
    def options(self) -> ExportOptions:
        """The options of the export."""
        return self.contract.options

    @property
    def wholes(self) -> list[WholeForm]:
        """The forms that read whole sequences."""
        return [form for form in (self.oneshot, self.prefill) if form]

    def graph_specs(self, tracer: Tracer) -> list[GraphSpec]:
        """All graphs."""
        return [form.graph_spec(tracer) for form in self.wholes] + (
            [self.step.graph_spec()] if self.step else []
        )

    def module_answers(self) -> dict[str, Answer]:
        """The results of the modules, by file name."""
        found: dict[str, Answer] = {form.file: form.graph_module.answer for form in self.wholes}
        return found | ({STEP: self.step.answer} if self.step else {})

    def table(self) -> Table:
        """model.toml"""
        options = self.options
        found = model_table(self.contract)
        varying = [self.step.contract] if isinstance(self.step, WrittenStep) else []
        found |= lengths_table(*(form.contract for form in self.wholes), *varying)
        if self.oneshot:
            found |= graph_table(self.oneshot.contract, self.oneshot.outputs)
        default = ExportOptions()
        if self.oneshot or (self.prefill and batching_table(options) != batching_table(default)):
            found["batching"] = batching_table(options)
        if self.prefill:
            found["prefill"] = {"graph": PREFILL} | graph_table(self.prefill.contract, self.prefill.outputs)
        if self.step:
            found["stepwise"] = self.step.table(options)
        return found

    def manifest(self) -> str:
        """The text of model.toml."""
        return manifest.write(self.options.about or type(self.module).__name__, self.table())


def export_forms(forms: ModelForms, folder: Path, progress: ReportProgress | None = None) -> Parity:
    """Checks, exports, proves and publishes a model. `progress` is called as each part begins.

    Raises:
        DescriptionError, ModuleError: the modules cannot be served; the message names the remedy.
        ParityError: the graphs' results differ from the modules'. Nothing is published.
    """
    graphs = len(forms.module_answers())
    begin = Parts(2 * graphs + proofs_of(forms), progress).begin  # checked, traced, proven
    check_forms(forms, begin)

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        export_onnx(forms.graph_specs(tracer), draft, tracer, begin)
        found = {file: open_graph(draft / file).run for file in forms.module_answers()}
        return prove_forms(forms, found, begin=begin)

    options, modules = forms.options, [forms.module, *(form.graph_module for form in forms.wholes)]
    with drafting(folder) as draft:
        parity = prove_with_fallback(folder.name, nn.ModuleList(modules), draft, attempt)
        publish(draft, folder, options.version, forms.manifest(), tokenizer_files(options))
    return parity


def export_and_report(forms: ModelForms, folder: Path) -> Parity:
    """`export_forms` for a person who waits: shows its progress on stderr, and reports the proof.

    Raises:
        DescriptionError, ModuleError, ParityError: as `export_forms`.
    """
    options = forms.options
    with ProgressDisplay(folder.name, quiet=not options.progress) as display:
        parity = export_forms(forms, folder, display.update)
    compared = f"{len(parity.differences)} comparisons, worst {parity.worst:.1e}"
    options.report(f"{folder}/{options.version}: parity holds: {compared}")
    return parity


def check_forms(forms: ModelForms, begin: Callable[[str], None] = _silent) -> None:
    """The checks of each module, and of the agreement of the step with the other forms.

    Raises:
        DescriptionError, ModuleError: a module cannot be served.
    """
    for form in forms.wholes:
        begin(f"checking {form.file}")
        check_module(form.graph_module.module, form.contract)
    if forms.step is not None:
        begin(f"checking {STEP}")
    if isinstance(forms.step, WrittenStep):
        forms.step.check()
    answers = forms.module_answers()
    failed = Parity("", _agreement(forms, answers, answers)).failed
    if not failed or forms.step is None:
        return
    what = f"{type(forms.module).__name__}: {forms.step.disagreement}"
    raise ModuleError("\n  ".join([what, *table(failed)]) + f"\n{forms.step.remedy}")


def proofs_of(forms: ModelForms) -> int:
    """The number of parts of `prove_forms`."""
    return len(forms.wholes) + (len(LENGTHS) + 1 if forms.step else 0)


def prove_forms(
    forms: ModelForms,
    found: Answers,
    expected: Answers | None = None,
    begin: Callable[[str], None] = _silent,
) -> list[Difference]:
    """Compares `found` with the modules, or with the unbatched results of `expected`, and the forms with each
    other."""
    expected = forms.module_answers() if expected is None else expected
    differences = []
    for form in forms.wholes:
        begin(f"proving {form.file}")
        differences += prove(form.contract, form.outputs, found[form.file], expected[form.file])
    if forms.step is None:
        return differences
    try:
        return differences + _prove_step(forms, forms.step, found, expected, begin)
    except Exception as error:  # ONNX Runtime raises various types
        return [*differences, failed_run(1, error)]


def _prove_step(
    forms: ModelForms, step: StepModule, found: Answers, expected: Answers, begin: Callable[[str], None]
) -> list[Difference]:
    differences, options = [], forms.options
    for batch in _step_batches(forms, step, expected, begin):
        for extra in (0, EXTRA_PADDING) if step.max_lengths else (0,):
            comparison = PADDED if extra else BATCHED
            differences += prove_steps(comparison, step, found[STEP], batch, options.tolerance, extra)
    begin(f"proving {STEP}: as the other forms")
    differences += _agreement(forms, found, expected)
    if options.exact:
        rng = torch.Generator().manual_seed(13)
        starts = _starts(forms, found, [1 + index % 25 for index in range(MOST)], rng)
        rows = _elements(step, [WARM_STEPS + 1] * MOST, rng)
        differences += prove_exact(step, found[STEP], rows, starts)
    return differences


def _agreement(forms: ModelForms, found: Answers, expected: Answers) -> list[Difference]:
    """The step against the one-shot form, and against the prefill if both read the same elements."""
    step, tolerance, differences = forms.step, forms.options.tolerance, []
    if step is None:
        return []
    if forms.oneshot:
        contract, rng = forms.oneshot.contract, torch.Generator().manual_seed(9)
        for lengths in LENGTHS:
            rows = [forms.oneshot.row(length, rng) for length in lengths]
            results = prefix_results(rows, contract, forms.oneshot.outputs, expected[ONESHOT], step)
            batch = ProofBatch(_elements_of(step, forms.oneshot, rows), results)
            differences += prove_steps(WHOLE, step, found[STEP], batch, tolerance)
    if forms.prefill and not isinstance(forms.options.task, Translate):
        contract, rng = forms.prefill.contract, torch.Generator().manual_seed(11)
        for lengths in LENGTHS:
            rows = [forms.prefill.row(length, rng) for length in lengths]
            prompts = _elements_of(step, forms.prefill, rows)
            prefilled = found[PREFILL](stack(contract, rows))
            differences += forced(
                step, found[STEP], rows, prompts, forms.prefill.outputs, prefilled, tolerance
            )
    return differences


def _step_batches(
    forms: ModelForms, step: StepModule, expected: Answers, begin: Callable[[str], None]
) -> Iterator[ProofBatch]:
    rng = torch.Generator().manual_seed(9)
    for lengths in LENGTHS:
        begin(f"proving {STEP}: up to {max(lengths)} steps")
        starts = _starts(forms, expected, [min(3 + 5 * k, LONGEST_START) for k in range(len(lengths))], rng)
        room = [_room(step, start) for start in starts]
        rows = _elements(step, [min(pair) for pair in zip(lengths, room, strict=True)], rng)
        yield ProofBatch(rows, unbatched_results(step, expected[STEP], rows, starts), starts)


def _room(step: StepModule, start: States) -> int:
    """The number of steps until a cache is full."""
    sizes = step.lengths(start)
    return min([max(1, step.max_lengths[name] - sizes[name]) for name in step.growing], default=LONGEST_STEPS)


def _elements(step: StepModule, counts: list[int], rng: torch.Generator) -> list[Elements]:
    contract = step.element_contract
    return [[dict(draw(contract, {}, rng).inputs) for _ in range(count)] for count in counts]


def _starts(forms: ModelForms, answers: Answers, lengths: list[int], rng: torch.Generator) -> list[States]:
    """The states of rows before their first step, from prefills of these lengths if there is a prefill."""
    assert forms.step
    starts = []
    for length in lengths:
        states = forms.step.start()
        if forms.prefill:
            row = forms.prefill.row(length, rng)
            prefilled = answers[PREFILL](stack(forms.prefill.contract, [row]))
            for state in forms.step.states:
                if state.prefill:
                    states[state.input] = torch.from_numpy(prefilled[state.prefill])
        starts.append(states)
    return starts


def _elements_of(step: StepModule, form: WholeForm, rows: list[SampleRow]) -> list[Elements]:
    """The elements of whole rows, under the names of the step's inputs."""
    (time,) = form.contract.max_lengths
    own = [input_.name for input_ in form.contract.client_inputs]
    names = [input_.name for input_ in step.inputs if input_.generated is None]
    renamed = (
        dict(zip(own, names, strict=True))
        if len(own) == len(names) == 1
        else dict(zip(own, own, strict=True))
    )
    return [
        [
            {renamed[name]: tensor for name, tensor in element.items()}
            for element in elements(row, form.contract, time)
        ]
        for row in rows
    ]
