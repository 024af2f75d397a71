"""Exports the step-wise form: one element and the states in, a result and the next states out.

with `states`   the module is one step, written by its author → step.onnx, and model.onnx and prefill.onnx of
                the modules that read whole sequences, if there are any
without         the module reads whole sequences; both forms are exported → model.onnx, step.onnx

The graphs of one model share their weights → weights.bin
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from lockstep_export.axes import BATCH
from lockstep_export.checks import find_outputs
from lockstep_export.contract import Example, InputContract
from lockstep_export.declaration import State, Whole
from lockstep_export.derive_step import check_derivable, derive
from lockstep_export.errors import DescriptionError
from lockstep_export.forms import ONESHOT, PREFILL, ModelForms, WholeForm, export_and_report
from lockstep_export.graph_module import GraphModule
from lockstep_export.oneshot import evaluation_copy
from lockstep_export.options import ServingOptions
from lockstep_export.parity import Parity
from lockstep_export.parse_spec import parse_spec
from lockstep_export.step_module import StepState
from lockstep_export.tasks import ClassifyTokens, Generate, Tensors, Translate
from lockstep_export.written_step import WrittenStep, written_step


def export_stepwise(
    module: nn.Module,
    example: Example,
    folder: Path | str,
    *,
    axes: str | Sequence[str] | Mapping[str, str],
    states: Mapping[str, str | State] | None = None,
    initial: Mapping[str, float] | None = None,
    prefill: Whole | None = None,
    oneshot: Whole | None = None,
    outputs: str | Sequence[str] = (),
    **serving: Unpack[ServingOptions],
) -> Parity:
    """Exports the step-wise form of a model, proves it and publishes it in `folder`.

    Without `states`, `module` reads whole sequences with nn.RNN, nn.GRU or nn.LSTM and is declared as for
    `export_oneshot`; both forms are published. With `states`, `module` is one step: `states` maps each input
    that is carried to the output that replaces it in the next step, or to a `State`, which can also grow, be
    carried unchanged or start from the `prefill`. `initial` gives start values, 0 by default. `prefill` reads
    a whole prompt or source, `oneshot` is the one-shot form of the model.

    Raises what `export_oneshot` raises.
    """
    forms = stepwise_forms(
        module,
        example,
        axes=axes,
        states=states,
        initial=initial,
        prefill=prefill,
        oneshot=oneshot,
        outputs=outputs,
        **serving,
    )
    return export_and_report(forms, Path(folder))


def stepwise_forms(
    module: nn.Module,
    example: Example,
    *,
    axes: str | Sequence[str] | Mapping[str, str],
    states: Mapping[str, str | State] | None = None,
    initial: Mapping[str, float] | None = None,
    prefill: Whole | None = None,
    oneshot: Whole | None = None,
    outputs: str | Sequence[str] = (),
    **serving: Unpack[ServingOptions],
) -> ModelForms:
    """The forms that `export_stepwise` exports, without the checks that need many runs."""
    if isinstance(serving.get("task"), ClassifyTokens):
        raise DescriptionError("task: ClassifyTokens has no step-wise form; use export_oneshot")
    module = evaluation_copy(module)
    if states is None:
        if initial:
            raise DescriptionError("initial: the module's own layers define their initial states; omit it")
        if prefill or oneshot:
            raise DescriptionError(
                f"{'prefill' if prefill else 'oneshot'}: the module itself reads whole sequences; pass one"
                ' step instead, with states={"h": State("h_next", prefill="h0")}'
            )
        contract = parse_spec(module, example, axes, outputs, serving)
        return _derived_forms(module, contract)
    contract = parse_spec(module, example, axes, outputs, _own_longest(serving, axes), states)
    step = written_step(module, contract, _states(states, initial or {}, contract))
    forms = ModelForms(
        module,
        contract,
        _whole(ONESHOT, oneshot, serving) if oneshot else None,
        _whole(PREFILL, prefill, serving, step.states) if prefill else None,
        step,
    )
    _check_longest(serving.get("longest"), forms)
    _check_declaration(forms, step)
    return forms


def _derived_forms(module: nn.Module, contract: InputContract) -> ModelForms:
    check_derivable(module, contract)
    graph_module = GraphModule(module, contract, find_outputs(module, contract))
    derived = derive(module, contract, graph_module.outputs)
    return ModelForms(module, contract, WholeForm(ONESHOT, graph_module), step=derived)


def _states(
    states: Mapping[str, str | State], initial: Mapping[str, float], contract: InputContract
) -> dict[str, State]:
    inputs = [input_.name for input_ in contract.inputs]
    for name in (*states, *initial):
        if name not in inputs:
            raise DescriptionError(f"states: unknown input {name!r}; available: {', '.join(inputs)}")
    declared = {name: State(state) if isinstance(state, str) else state for name, state in states.items()}
    return {
        name: replace(state, initial=initial.get(name, state.initial)) for name, state in declared.items()
    }


def _own_longest(serving: ServingOptions, axes: str | Sequence[str] | Mapping[str, str]) -> ServingOptions:
    """The options with that part of `longest` that names lengths of one module."""
    longest = serving.get("longest")
    if not isinstance(longest, Mapping):
        return serving
    texts = [axes] if isinstance(axes, str) else list(axes.values() if isinstance(axes, Mapping) else axes)
    own = {word for text in texts for word in text.split()}
    return {**serving, "longest": {name: most for name, most in longest.items() if name in own}}


def _whole(
    file: str,
    whole: Whole,
    serving: ServingOptions,
    states: Sequence[StepState] = (),
) -> WholeForm:
    module = evaluation_copy(whole.module)
    own: dict[str, Any] = {
        name: getattr(whole, name) for name in ("lengths", "mask", "padding_mask", "pad", "ids")
    }
    task = {"task": Tensors()} if file == PREFILL else {}
    options = _own_longest({**serving, **own, **task}, whole.axes)  # type: ignore[typeddict-item]
    parsed = parse_spec(module, whole.example, whole.axes, whole.outputs, options)
    starts = {state.prefill for state in states}
    outputs = (
        replace(output, batch_first=output.name not in starts) for output in find_outputs(module, parsed)
    )
    return WholeForm(file, GraphModule(module, parsed, tuple(outputs)))


def _check_longest(longest: Any, forms: ModelForms) -> None:
    contracts = [forms.contract, *(form.contract for form in forms.wholes)]
    known = {name for contract in contracts for name in contract.max_lengths}
    for name in longest if isinstance(longest, Mapping) else ():
        if name not in known:
            raise DescriptionError(f"longest: unknown name {name!r}; available: {', '.join(sorted(known))}")


def _check_declaration(forms: ModelForms, step: WrittenStep) -> None:
    task = forms.options.task
    if isinstance(task, Translate) and not forms.prefill:
        raise DescriptionError("task: Translate needs prefill=Whole(…), a module that reads the source")
    for state in step.states:
        if state.prefill:
            _check_start(state, forms.prefill)
    if forms.prefill:
        _check_prefill(forms.prefill, step, task)
    if forms.oneshot:
        _check_same_elements("oneshot", forms.oneshot, step)
        if not {one.name for one in forms.oneshot.outputs} & {one.name for one in step.outputs}:
            names = ", ".join(one.name for one in step.outputs)
            raise DescriptionError(
                f"oneshot: it has none of the outputs of the step ({names}); name them alike"
            )


def _check_start(state: StepState, prefill: WholeForm | None) -> None:
    if prefill is None:
        raise DescriptionError(
            f"states: {state.input!r} starts from the prefill output {state.prefill!r}; pass prefill=Whole(…)"
        )
    found = {output.name: output for output in prefill.outputs}
    if state.prefill not in found:
        raise DescriptionError(
            f"states: the prefill returns no {state.prefill!r} to start {state.input!r}; it returns"
            f" {', '.join(found)}"
        )
    output = found[state.prefill]
    fixed = [size for name, size in zip(state.axes, state.shape, strict=True) if not name]
    started = [size for name, size in zip(output.axes.names, output.shape, strict=True) if not name]
    if output.axes.names != state.axes or fixed != started:
        raise DescriptionError(
            f"states: {state.input!r} {_describe(state.axes, state.shape)} starts from {state.prefill!r}"
            f" {_describe(output.axes.names, output.shape)} of the prefill; both must have the same axes,"
            " with the same names, and fixed sizes"
        )


def _describe(axes: Sequence[str], shape: Sequence[int]) -> str:
    """The axes in the notation of axes.py."""
    return '"' + " ".join(name or str(size) for name, size in zip(axes, shape, strict=True)) + '"'


def _check_prefill(prefill: WholeForm, step: WrittenStep, task: object) -> None:
    inputs = prefill.contract.client_inputs
    generates = isinstance(task, Generate | Translate)
    if not generates:
        _check_answers(prefill, step)
    elif len(inputs) != 1 or inputs[0].ids is None or len(prefill.contract.max_lengths) != 1:
        names = ", ".join(input_.name for input_ in inputs)
        raise DescriptionError(
            f"prefill: it must take the ids of a prompt or source, along one named length; it takes {names}."
            " Declare the inputs that the server generates (lengths=, mask=)"
        )
    if not any(state.prefill for state in step.states):
        names = ", ".join(output.name for output in prefill.outputs)
        raise DescriptionError(
            'prefill: no state starts from it; use states={"…": State("…", prefill="…")} with one of its'
            f" outputs: {names}"
        )
    if not isinstance(task, Translate):
        _check_same_elements("prefill", prefill, step)


def _check_answers(prefill: WholeForm, step: WrittenStep) -> None:
    """A prompt of tensors answers as the step after its last element does."""
    found = {output.name: output.axes.names for output in prefill.outputs}
    for output in step.outputs:
        if output.name not in found or any(name not in ("", BATCH) for name in found[output.name]):
            raise DescriptionError(
                f"prefill: a prompt is answered as a step is, and the prefill returns no {output.name!r} of"
                f" its last element alone; it returns {', '.join(found)}"
            )


def _check_same_elements(argument: str, whole: WholeForm, step: WrittenStep) -> None:
    """The step must take, one at a time, what the whole form takes at once."""
    own = sorted(input_.name for input_ in whole.contract.client_inputs)
    single = sorted(input_.name for input_ in step.element_contract.client_inputs)
    if len(whole.contract.max_lengths) != 1:
        raise DescriptionError(
            f"{argument}: the named lengths are {', '.join(whole.contract.max_lengths) or 'none'}; it needs"
            ' exactly one, as in axes="batch words"'
        )
    if own != single and len(own) + len(single) != 2:
        raise DescriptionError(
            f"{argument}: it takes {', '.join(own)}, and the step takes {', '.join(single)}; use the same"
            " names"
        )
