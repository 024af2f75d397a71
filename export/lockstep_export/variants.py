"""A published model in another precision, beside it: `lockstep-export variant MODEL --kind KIND --out DIR`.

folder of a model → each graph narrowed (precision.py) → compared with the original (comparison.py)
    → OUT/<name>-<kind>/{model.toml, tokenizers, 1/}
"""

import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import typer

from lockstep_export.comparison import Comparison, Words, compare
from lockstep_export.errors import ExportError, ModuleError
from lockstep_export.manifest import write
from lockstep_export.onnx import save
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.precision import Kind, narrowed
from lockstep_export.publication import MANIFEST, drafting
from lockstep_export.tracer_fallback import opened

TOLERANCE = 0.02  # of the server's self-test: what it allows for halves
ALONE = {"max_rows": 1}

Report = Callable[[str], None]
Measure = Callable[[Path, Path, Path], str]
"""(model, folder of its graphs, folder of the variant's graphs) -> the quality of both in one sentence."""


def make_variant(
    model: Path,
    kind: Kind,
    out: Path,
    version: int = 1,
    report: Report = typer.echo,
    measure: Measure | None = None,
) -> list[Comparison]:
    """Publishes `model` as `out`/<name>-<kind>; returns the comparisons that it reports.

    Raises:
        ExportError: there is no such model, its values are too large for the narrower numbers, or `measure`
            cannot measure it.
    """
    source = model / str(version)
    files = sorted(source.glob("*.onnx"))
    described = source if (source / MANIFEST).is_file() else model
    if not files or not (described / MANIFEST).is_file():
        raise ExportError(f"no model in {source}: give the folder that holds {MANIFEST} and {version}/")
    words = tomllib.loads((described / MANIFEST).read_text(encoding="utf-8"))
    name = model.resolve().name
    target = out / f"{name}-{kind}"
    with drafting(target) as draft:
        save({file.name: narrowed(onnx.load(file), kind) for file in files}, draft / "1")
        comparisons = [_compared(file, draft / "1", words) for file in files]
        _check(target.name, comparisons)
        for file in described.glob("*.json"):
            shutil.copyfile(file, draft / file.name)
        measured = measure(model, source, draft / "1") if measure else ""
        about = f"{name} in {kind}: {measured or summary(comparisons)}"
        (draft / MANIFEST).write_text(write(about, _manifest(words, kind)), encoding="utf-8")
        _publish(draft, target)
    _tell(report, source, target / "1", comparisons)
    if measured:
        report(f"  {measured}")
    return comparisons


def _compared(file: Path, draft: Path, words: Words) -> Comparison:
    original, narrow = OnnxGraph(file), opened(draft / file.name)
    return compare(file.name, original, narrow, graph_mode(words, file.name), words.get("roles", {}))


def graph_mode(words: Words, file: str) -> Words:
    """What a manifest says of one graph."""
    for part in ("prefill", "stepwise"):
        if words.get(part, {}).get("graph", f"{part.removesuffix('wise')}.onnx") == file:
            return words[part]  # type: ignore[no-any-return]
    return words


def summary(comparisons: list[Comparison]) -> str:
    """In a few words, for the manifest."""
    shares = [one.agreeing for one in comparisons if one.agreeing is not None]
    agreeing = f"{min(shares):.0%} of best scores as in fp32, " if shares else ""
    return f"{agreeing}largest difference {max(one.largest for one in comparisons):.1e} on made-up rows"


def _check(name: str, comparisons: list[Comparison]) -> None:
    for one in comparisons:
        if not np.isfinite(one.largest):
            why = "gives what is no number: its values are too large for narrower ones"
            raise ModuleError(f"{name}: {one.graph} {why}")


def _manifest(words: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Halves differ more in company; what scales over a run must run alone."""
    table: dict[str, Any] = _with_whole_axes(dict(words))
    if kind == "fp16":
        table["tolerance"] = TOLERANCE
    if kind == "int8-dynamic":
        table["batching"] = {**table.get("batching", {}), **ALONE}
    return table


def _with_whole_axes(value: Any) -> Any:
    """TOML reads the axes of `lengths` as text."""
    if isinstance(value, list):
        return [_with_whole_axes(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {int(key) if key.isdigit() else key: _with_whole_axes(one) for key, one in value.items()}


def _publish(draft: Path, target: Path) -> None:
    replaced = draft.with_name(draft.name + "-replaced")
    draft.chmod(0o755)  # not its maker's alone, as drafts are
    if target.exists():
        target.rename(replaced)
    draft.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _tell(report: Report, source: Path, target: Path, comparisons: list[Comparison]) -> None:
    report(f"{target}: {_bytes(target):,} bytes, of {_bytes(source):,}")
    for one in comparisons:
        agreeing = "" if one.agreeing is None else f"{one.agreeing:.1%} of best scores agree, "
        speeds = ", ".join(
            f"{rows} {variant_us:.0f} µs (fp32 {original_us:.0f})"
            for rows, (original_us, variant_us) in (("1 row", one.one_row_us), ("16 rows", one.many_rows_us))
        )
        report(f"  {one.graph:<13} {agreeing}largest difference {one.largest:.1e}; {speeds}")


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
