"""Reads `model.toml`: bytes → TOML → `Manifest`, checked.

There is one function per section; schema.py checks single values and coherence.py checks between sections.
Every error names the file, the key and how to fix it.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import LoadError
from ...model.manifest import (
    BatchingSection,
    EncoderSection,
    GenerationSection,
    InstancesSection,
    LengthSection,
    Manifest,
    PrefillSection,
    RolesSection,
    StateSection,
    StepwiseSection,
    TensorSection,
    TextSection,
)
from . import schema
from .coherence import Coherence

if TYPE_CHECKING:
    from pathlib import Path

TASKS = ("tensor", "classify", "token-classification", "ctc", "encode", "generate", "translate")
ACTIVATIONS = ("softmax", "sigmoid", "none")
GENERATED = ("mask", "lengths", "positions", "zeros")
POOLINGS = ("mean", "first", "last", "max")


def read(path: Path) -> Manifest:
    """Read the manifest in the file `path`.

    Raises:
        LoadError: the file is not valid TOML, or a key is unknown, missing or has an invalid value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path}: not valid TOML: {error}; correct the file") from error
    return parse(content, str(path))


def parse(content: dict[str, Any], file: str = "model.toml") -> Manifest:
    """Build a manifest from parsed TOML. `file` is its path for errors.

    Raises:
        LoadError: as `read`.
    """
    top = schema.TomlTable(content, file, "")
    bounded, computed = top.table("lengths", _lengths) or ({}, {})
    manifest = Manifest(
        task=top.choice("task", TASKS, "tensor"),
        labels=top.strings("labels"),
        blank=top.optional("blank", schema.index),
        default_version=top.optional("default_version", schema.count),
        fixed_shape=top.get("fixed_shape", schema.boolean, False),
        tolerance=top.optional("tolerance", schema.positive),
        text=top.table("text", _text),
        lengths=bounded,
        computed=computed,
        inputs=top.tables("inputs", _tensor),
        outputs=top.tables("outputs", _tensor),
        roles=top.table("roles", _roles) or RolesSection(),
        batching=top.table("batching", _batching) or BatchingSection(),
        instances=top.table("instances", _instances) or InstancesSection(),
        generation=top.table("generation", _generation) or GenerationSection(),
        encoder=top.table("encoder", _encoder),
        prefill=top.table("prefill", _prefill),
        stepwise=top.table("stepwise", _stepwise),
        from_file=True,
    )
    top.reject_unknown_keys()
    manifest = _with_inline_formulas(manifest)
    Coherence(manifest, file).check()
    return manifest


# --- one function per section ---------------------------------------------------------------------


def _text(table: schema.TomlTable) -> TextSection:
    return TextSection(
        source=table.get("source", schema.relative_path, ""),
        target=table.get("target", schema.relative_path, ""),
        begin=table.get("begin", schema.ids, ()),
        end=table.get("end", schema.ids, ()),
    )


def _lengths(table: schema.TomlTable) -> tuple[dict[str, LengthSection], dict[str, str]]:
    """`[lengths]`: a table for each length of inputs, a formula for each that is computed from others."""
    bounded: dict[str, LengthSection] = {}
    computed: dict[str, str] = {}
    for name, value in table.content.items():
        if isinstance(value, str):
            computed[name] = table.require(name, schema.formula)
        elif section := table.table(name, _length):
            bounded[name] = section
    return bounded, computed


def _with_inline_formulas(manifest: Manifest) -> Manifest:
    """Add the formulas that outputs have in place of a name. Each is its own name."""
    graphs = (manifest, manifest.prefill, manifest.stepwise)
    sections = [section for graph in graphs if graph for section in graph.outputs.values()]
    used = {name for section in sections for name in section.lengths.values()}
    inline = {
        name: name for name in sorted(used - {*manifest.lengths, *manifest.computed}) if _is_formula(name)
    }
    return replace(manifest, computed={**manifest.computed, **inline})


def _is_formula(text: str) -> bool:
    try:
        return not text.isidentifier() and bool(schema.formula(text))
    except ValueError:
        return False


def _length(table: schema.TomlTable) -> LengthSection:
    return LengthSection(max=table.require("max", schema.count))


def _tensor(table: schema.TomlTable) -> TensorSection:
    return TensorSection(
        batch_axis=table.optional("batch_axis", schema.index),
        lengths=table.get("lengths", schema.axes, {}),
        pad=table.get("pad", schema.number, 0.0),
        range=table.optional("range", schema.id_range),
        generated=table.choice("generated", GENERATED, ""),
        of=table.get("of", schema.string, ""),
        real=table.get("real", schema.truth, 1.0),
        new=table.get("new", schema.boolean, False),
        pooling=table.choice("pooling", POOLINGS, ""),
        normalise=table.get("normalise", schema.boolean, False),
        overlap=table.optional("overlap", schema.index),
        value=table.optional("value", schema.number),
        sizes=table.get("sizes", schema.sizes, {}),
        position=table.get("position", schema.position, -1),
        encoder=table.get("encoder", schema.string, ""),
    )


def _roles(table: schema.TomlTable) -> RolesSection:
    return RolesSection(
        input=table.get("input", schema.string, ""),
        scores=table.get("scores", schema.string, ""),
        activation=table.choice("activation", ACTIVATIONS, "softmax"),
        vector=table.get("vector", schema.string, ""),
        attention=table.get("attention", schema.string, ""),
    )


def _batching(table: schema.TomlTable) -> BatchingSection:
    default = BatchingSection()
    return BatchingSection(
        max_rows=table.get("max_rows", schema.count, default.max_rows),
        max_padded_elements=table.get("max_padded_elements", schema.count, default.max_padded_elements),
        max_queue_ms=table.get("max_queue_ms", schema.milliseconds, default.max_queue_ms),
    )


def _instances(table: schema.TomlTable) -> InstancesSection:
    return InstancesSection(
        count=table.get("count", schema.count, None), threads=table.get("threads", schema.threads, 1)
    )


def _generation(table: schema.TomlTable) -> GenerationSection:
    default = GenerationSection()
    return GenerationSection(
        forced_first=table.optional("forced_first", schema.index),
        forced_last=table.optional("forced_last", schema.index),
        forbidden=table.get("forbidden", schema.ids, ()),
        forbidden_first=table.get("forbidden_first", schema.ids, ()),
        min_tokens=table.get("min_tokens", schema.index, 0),
        repetition_penalty=table.get("repetition_penalty", schema.positive, default.repetition_penalty),
        no_repeat=table.get("no_repeat", schema.index, 0),
        beams=table.get("beams", schema.count, default.beams),
        length_penalty=table.get("length_penalty", schema.number, default.length_penalty),
        early_stopping=table.get("early_stopping", schema.boolean, False),
    )


def _encoder(table: schema.TomlTable) -> EncoderSection:
    return EncoderSection(
        graph=table.get("graph", schema.relative_path, "encoder.onnx"),
        inputs=table.tables("inputs", _tensor),
        outputs=table.tables("outputs", _tensor),
    )


def _prefill(table: schema.TomlTable) -> PrefillSection:
    return PrefillSection(
        graph=table.get("graph", schema.relative_path, "prefill.onnx"),
        inputs=table.tables("inputs", _tensor),
        outputs=table.tables("outputs", _tensor),
    )


def _stepwise(table: schema.TomlTable) -> StepwiseSection:
    default = StepwiseSection()
    max_tokens = table.get("max_tokens", schema.count, default.max_tokens)
    limit = table.get("max_tokens_limit", schema.count, max(default.max_tokens_limit, max_tokens))
    if limit < max_tokens:
        raise table.error("max_tokens_limit", f"{limit} is below max_tokens, {max_tokens}; use that or more")
    return StepwiseSection(
        graph=table.get("graph", schema.relative_path, default.graph),
        max_sequences=table.get("max_sequences", schema.count, default.max_sequences),
        max_tokens=max_tokens,
        max_tokens_limit=limit,
        idle_timeout_s=table.get("idle_timeout_s", schema.seconds, default.idle_timeout_s),
        inputs=table.tables("inputs", _tensor),
        outputs=table.tables("outputs", _tensor),
        state=table.array("state", _state),
    )


def _state(table: schema.TomlTable) -> StateSection:
    return StateSection(
        name=table.require("name", schema.string),
        input=table.require("input", schema.string),
        output=table.get("output", schema.string, ""),
        prefill=table.get("prefill", schema.string, ""),
        initial=table.get("initial", schema.number, 0.0),
        file=table.get("file", schema.relative_path, ""),
        batch_axis=table.get("batch_axis", schema.index, 0),
        lengths=table.get("lengths", schema.axes, {}),
        grows=table.get("grows", schema.boolean, False),
    )
