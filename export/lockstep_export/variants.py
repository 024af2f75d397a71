"""Converts a published model to another precision: `lockstep-export variant MODEL --kind KIND --out DIR`.

model folder → each graph converted (precision.py) → compared with the original (comparison.py)
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

from lockstep_client.progress import ProgressDisplay
from lockstep_export.comparison import Comparison, Spec, compare
from lockstep_export.errors import ExportError, ModuleError
from lockstep_export.manifest import Kind, write
from lockstep_export.onnx import save
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.precision import narrowed
from lockstep_export.publication import MANIFEST, drafting
from lockstep_export.tracer_fallback import open_graph

TOLERANCE = 0.02  # for the server's self-test of float16 graphs
ONE_ROW = {"max_rows": 1}

Report = Callable[[str], None]
Measure = Callable[[Path, Path, Path], str]
"""(model, folder of its graphs, folder of the variant's graphs) → the quality of both, as text."""


def make_variant(
    model: Path,
    kind: Kind,
    out: Path,
    version: int = 1,
    report: Report = typer.echo,
    measure: Measure | None = None,
) -> list[Comparison]:
    """Publishes the variant as `out`/<name>-<kind>; returns the comparisons that it reports.

    Raises:
        ExportError: the model does not exist, its values are out of range for `kind`, or `measure` failed.
    """
    source = model / str(version)
    files = sorted(source.glob("*.onnx"))
    manifest_folder = source if (source / MANIFEST).is_file() else model
    if not files or not (manifest_folder / MANIFEST).is_file():
        raise ExportError(f"no model in {source}: pass the folder that holds {MANIFEST} and {version}/")
    manifest = tomllib.loads((manifest_folder / MANIFEST).read_text(encoding="utf-8"))
    name = model.resolve().name
    target = out / f"{name}-{kind}"
    with drafting(target) as draft:
        with ProgressDisplay(target.name) as display:
            narrow = {}
            for done, file in enumerate(files):
                display.update(done, 2 * len(files), f"converting {file.name}")
                narrow[file.name] = narrowed(onnx.load(file), kind)
            save(narrow, draft / "1")
            comparisons = []
            for done, file in enumerate(files, len(files)):
                display.update(done, 2 * len(files), f"comparing {file.name}")
                comparisons.append(_compare(file, draft / "1", manifest))
        _check(target.name, comparisons)
        for file in manifest_folder.glob("*.json"):
            shutil.copyfile(file, draft / file.name)
        quality = measure(model, source, draft / "1") if measure else ""
        about = f"{name} in {kind}: {quality or summary(comparisons)}"
        (draft / MANIFEST).write_text(write(about, _manifest(manifest, kind)), encoding="utf-8")
        _publish(draft, target)
    _report_comparisons(report, source, target / "1", comparisons)
    if quality:
        report(f"  {quality}")
    return comparisons


def _compare(file: Path, draft: Path, manifest: Spec) -> Comparison:
    original, narrow = OnnxGraph(file), open_graph(draft / file.name)
    return compare(file.name, original, narrow, graph_section(manifest, file.name), manifest.get("roles", {}))


def graph_section(manifest: Spec, file: str) -> Spec:
    """The section of a manifest that describes one graph."""
    for part in ("prefill", "stepwise"):
        if manifest.get(part, {}).get("graph", f"{part.removesuffix('wise')}.onnx") == file:
            return manifest[part]  # type: ignore[no-any-return]
    return manifest


def summary(comparisons: list[Comparison]) -> str:
    """A short description for the manifest."""
    agreements = [comparison.agreeing for comparison in comparisons if comparison.agreeing is not None]
    agreeing = f"{min(agreements):.0%} of best scores agree with fp32, " if agreements else ""
    largest = max(comparison.largest for comparison in comparisons)
    return f"{agreeing}largest difference {largest:.1e} on generated rows"


def _check(name: str, comparisons: list[Comparison]) -> None:
    for comparison in comparisons:
        if not np.isfinite(comparison.largest):
            why = "returns NaN or infinity: its values are out of range for the narrower type"
            raise ModuleError(f"{name}: {comparison.graph} {why}")


def _manifest(manifest: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Batched float16 results differ more from unbatched ones; int8-dynamic scales over the batch."""
    table: dict[str, Any] = _with_whole_axes(dict(manifest))
    if kind == "fp16":
        table["tolerance"] = TOLERANCE
    if kind == "int8-dynamic":
        table["batching"] = {**table.get("batching", {}), **ONE_ROW}
    return table


def _with_whole_axes(value: Any) -> Any:
    """Converts the axes of `lengths` to integers: TOML keys are strings."""
    if isinstance(value, list):
        return [_with_whole_axes(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {int(key) if key.isdigit() else key: _with_whole_axes(one) for key, one in value.items()}


def _publish(draft: Path, target: Path) -> None:
    replaced = draft.with_name(draft.name + "-replaced")
    draft.chmod(0o755)  # temporary folders are readable by their owner only
    if target.exists():
        target.rename(replaced)
    draft.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _report_comparisons(report: Report, source: Path, target: Path, comparisons: list[Comparison]) -> None:
    report(f"{target}: {_bytes(target):,} bytes, original {_bytes(source):,}")
    for comparison in comparisons:
        agreeing = "" if comparison.agreeing is None else f"{comparison.agreeing:.1%} of best scores agree, "
        speeds = ", ".join(
            f"{rows} {variant_us:.0f} µs (fp32 {original_us:.0f})"
            for rows, (original_us, variant_us) in (
                ("1 row", comparison.one_row_us),
                ("16 rows", comparison.many_rows_us),
            )
        )
        report(f"  {comparison.graph:<13} {agreeing}largest difference {comparison.largest:.1e}; {speeds}")


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
