"""Descriptions of models as text, with examples of calls that work. Pure functions of `ModelForm`s."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockstep_client.operations import ModelForm, TensorForm

VERBS = {
    "Classify": "classify",
    "ClassifyTokens": "classify-tokens",
    "Transcribe": "transcribe",
    "Generate": "generate",
    "Translate": "translate",
    "Encode": "encode",
}
"""The verb of each RPC that reads texts or frames, the most telling first."""

_NUMPY = {
    "BOOL": "bool_", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16",
    "FP32": "float32", "FP64": "float64", "BYTES": "object_",
}  # fmt: skip
_SAMPLES = {
    "classify": "a fine film",
    "classify-tokens": "Ada lives in Paris",
    "generate": "ROMEO:",
    "translate": "A man is riding a red bicycle .",
    "encode": "a fine film",
}
_FEW_LABELS = 12
_ELEMENTS = 4


def verb_of(forms: Sequence[ModelForm]) -> str:
    """The verb that answers with a model of these forms."""
    methods = {method for form in forms for method in form.methods}
    found = next((verb for method, verb in VERBS.items() if method in methods), "")
    if found in ("", "transcribe") or any(form.reads_text for form in forms):
        return found or ("follow --frames" if any(map(_takes_frames, forms)) else "infer")
    return "infer"


def _takes_frames(form: ModelForm) -> bool:
    return "Follow" in form.methods and not form.reads_text and len(form.inputs) == 1


def inputs_of(form: ModelForm) -> str:
    """What requests send: text, or tensors with their axes."""
    return "text" if form.reads_text else ", ".join(map(_tensor, form.inputs))


def _tensor(tensor: TensorForm) -> str:
    named = zip(tensor.axes or ("",) * len(tensor.shape), tensor.shape, strict=True)
    axes = ", ".join(name if name and size < 0 else str(size) if size >= 0 else "*" for name, size in named)
    return f"{tensor.name} {tensor.datatype} [{axes}]"


def lines(forms: Sequence[ModelForm], address: str) -> Iterator[str]:
    """The description of one version of a model, line by line."""
    first = forms[0]
    yield f"{first.model}, version {first.version}: task {first.task}, on {first.device}"
    if first.labels:
        more = f", … ({len(first.labels)} in all)" if len(first.labels) > _FEW_LABELS else ""
        yield f"  labels    {', '.join(first.labels[:_FEW_LABELS])}{more}"
    if first.lengths:
        yield "  lengths   " + ", ".join(f"{name}: at most {most}" for name, most in first.lengths.items())
    for form in forms:
        yield ""
        yield from _form(form)
    yield ""
    for title, example in examples(forms, address).items():
        yield f"{title}:"
        yield from (f"  {line}".rstrip() for line in example.splitlines())


def _form(form: ModelForm) -> Iterator[str]:
    yield f"{'step-wise' if form.step_wise else 'one-shot'} form, {form.name} in the tensor API"
    for what, tensors in (("input", form.inputs), ("output", form.outputs)):
        for tensor in tensors:
            notes = [tensor.role] * (tensor.role not in ("", what)) + ["optional"] * tensor.optional
            yield f"  {what:<9} {_tensor(tensor)}" + (f"  ({', '.join(notes)})" if notes else "")
    rows = f"up to {form.max_rows} rows share a run" if form.max_rows > 1 else "each request runs alone"
    yield f"  batching  {rows}" + f"; up to {form.max_sequences} sequences at a time" * form.step_wise
    yield f"  RPCs      {', '.join(form.methods)}"
    if form.notice:
        yield f"  notice    {form.notice}"
    for number, cost in enumerate(form.costs):
        size = f"{cost.rows} × {cost.length}" if cost.length else f"{cost.rows}"
        unit = "rows × elements" if cost.length else "rows of a step"
        yield f"  {'' if number else 'costs':<9} {size:>9} {unit}: {cost.seconds * 1e3:.3g} ms"


def examples(forms: Sequence[ModelForm], address: str) -> dict[str, str]:
    """Calls that the model answers, by the way to make them."""
    first, verb = forms[0], verb_of(forms)
    found = {"shell": _shell(forms, verb), "Python": _python(forms, verb, address)}
    if all(tensor.datatype in _NUMPY for tensor in first.inputs):
        found["tritonclient"] = _triton(first, address)
    return found


def _shell(forms: Sequence[ModelForm], verb: str) -> str:
    model = forms[0].model
    sample = _SAMPLES.get(verb, "")
    if verb in ("generate",):
        return f'lockstep generate --model {model} --prompt "{sample}" --max-tokens 40'
    if verb == "transcribe":
        return f"lockstep transcribe --model {model} FRAMES.npy"
    if verb == "follow --frames":
        return f"lockstep follow --model {model} --frames FRAMES.npy"
    if verb != "infer":
        return f'lockstep {verb} --model {model} "{sample}"'
    values = " ".join(f"{tensor.name}='{sample_value(tensor)}'" for tensor in _required(forms[0]))
    return f"lockstep infer --model {forms[0].name} {values}"


def sample_value(tensor: TensorForm) -> str:
    """A value of the tensor, as JSON."""
    value: object = "a" if tensor.datatype == "BYTES" else tensor.datatype == "BOOL" or 1
    for size in reversed(_sizes(tensor)):
        value = [value] * size
    return json.dumps(value)


def _sizes(tensor: TensorForm) -> list[int]:
    """A shape that the tensor may have: one row, and few elements."""
    axes = tensor.axes or ("",) * len(tensor.shape)
    return [
        size if size >= 0 else 1 if name == "batch" else _ELEMENTS
        for name, size in zip(axes, tensor.shape, strict=True)
    ]


def _required(form: ModelForm) -> list[TensorForm]:
    return [tensor for tensor in form.inputs if not tensor.optional]


def _array(tensor: TensorForm) -> str:
    kind = f"np.{_NUMPY[tensor.datatype]}"
    sizes = tuple(_sizes(tensor))
    return f'np.full({sizes}, "a", {kind})' if tensor.datatype == "BYTES" else f"np.ones({sizes}, {kind})"


def _python(forms: Sequence[ModelForm], verb: str, address: str) -> str:
    form, sample = forms[0], _SAMPLES.get(verb, "")
    head = "from lockstep_client import Client\n\n"
    if verb in ("generate", "translate"):
        more = ", max_tokens=40" if verb == "generate" else ""
        call = f'print(client.{verb}("{form.model}", "{sample}"{more}).result().text)'
    elif verb in ("transcribe", "follow --frames"):
        call = f"print(client.{'transcribe' if verb == 'transcribe' else 'follow_frames'}"
        call += f'("{form.model}", frames))  # frames: an array [frames, ...]'
    elif verb != "infer":
        call = f'print(client.{verb.replace("-", "_")}("{form.model}", "{sample}"))'
    else:
        head = "import numpy as np\n" + head
        inputs = ", ".join(f'"{tensor.name}": {_array(tensor)}' for tensor in _required(form))
        sequence = ", sequence_id=1, sequence_start=True, sequence_end=True" * form.step_wise
        call = f'print(client.infer("{form.name}", {{{inputs}}}{sequence}).outputs)'
    return f'{head}with Client("{address}") as client:\n    {call}'


def _triton(form: ModelForm, address: str) -> str:
    made = ["import numpy as np", "import tritonclient.grpc as triton", ""]
    made.append(f'client = triton.InferenceServerClient("{address}")')
    names = []
    for number, tensor in enumerate(_required(form)):
        names.append(f"input{number}")
        sizes = _sizes(tensor)
        made.append(f'{names[-1]} = triton.InferInput("{tensor.name}", {sizes}, "{tensor.datatype}")')
        made.append(f"{names[-1]}.set_data_from_numpy({_array(tensor)})")
    sequence = ", sequence_id=1, sequence_start=True, sequence_end=True" * form.step_wise
    output = form.outputs[0].name if form.outputs else ""
    made.append(f'answer = client.infer("{form.name}", [{", ".join(names)}]{sequence})')
    made.append(f'print(answer.as_numpy("{output}"))')
    return "\n".join(made)
