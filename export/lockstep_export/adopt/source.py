"""The files of what is adopted: graphs, and the configurations and tokenizers beside them.

A file, or a folder as optimum writes it, or as the hub has it: the configurations above a folder `onnx`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lockstep_export.adopt.graph import Graph, read_graph
from lockstep_export.adopt.report import Report
from lockstep_export.errors import DescriptionError

ENCODER, DECODER, WITH_PAST, MERGED = (
    "encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx",
)  # fmt: skip
MODEL, STEP, PREFILL = "model.onnx", "step.onnx", "prefill.onnx"
_ROLES = (ENCODER, DECODER, WITH_PAST, MERGED, MODEL, STEP, PREFILL)
TOKENIZER = "tokenizer.json"
_LIMITS = (
    "n_positions", "max_position_embeddings", "n_ctx", "max_sequence_length", "seq_length", "max_seq_len",
)  # fmt: skip
_UNLIMITED = 1_000_000
"""transformers writes a huge `model_max_length` where it knows none."""


@dataclass(frozen=True)
class Source:
    """What was found. `graphs` are by their usual file names."""

    path: Path
    graphs: Mapping[str, Graph]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    tokenizers: Mapping[str, Path]
    pooling: Mapping[str, Any] | None  # of sentence-transformers
    normalised: bool

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or [""])[0])

    def number(self, *names: str) -> tuple[int, str] | None:
        """The first of these whole numbers of config.json, and its name."""
        for name in names:
            if isinstance(value := self.config.get(name), int) and not isinstance(value, bool) and value > 0:
                return value, name
        return None

    def id_of(self, name: str) -> list[int]:
        """Ids of generation_config.json or config.json, such as `eos_token_id`: one, several or none."""
        for where in (self.generation, self.config):
            value = where.get(name)
            if value is not None:
                return [int(one) for one in (value if isinstance(value, list) else [value])]
        return []

    def generated(self, name: str) -> Any:
        """A setting of generation_config.json; of older models it is in config.json."""
        return self.generation.get(name, self.config.get(name))

    @property
    def longest(self) -> tuple[int, str] | None:
        """The most elements that the model reads, and where that is written."""
        found = self.number(*_LIMITS)
        limits = [(found[0] - self._positions_before(), f"{found[1]} of config.json")] if found else []
        length = self.tokenizer_config.get("model_max_length")
        if isinstance(length, int | float) and 0 < length < _UNLIMITED:
            limits.append((int(length), "model_max_length of tokenizer_config.json"))
        return min(limits, default=None)

    def _positions_before(self) -> int:
        """RoBERTa and its kin count positions from the padding id on."""
        kind = str(self.config.get("model_type", ""))
        after_padding = "roberta" in kind or kind in ("camembert", "longformer", "mpnet", "xlm", "esm")
        return int(self.config.get("pad_token_id") or 0) + 1 if after_padding else 0


def find_source(path: Path, report: Report) -> Source:
    """
    Raises:
        DescriptionError: there is no graph, or it is unclear which one is meant.
    """
    if not path.exists():
        raise DescriptionError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    files = _graph_files(path)
    graphs = {name: read_graph(file) for name, file in files.items()}
    if MERGED in graphs:
        for name in (DECODER, WITH_PAST):
            if graphs.pop(name, None) is not None:
                report.decide(name, "left out", f"{MERGED} does the same")
    places = [folder, folder.parent] if folder.name == "onnx" or path.is_file() else [folder]
    pooling = _json(places, "1_Pooling/config.json")
    modules = _json(places, "modules.json")
    return Source(
        path,
        graphs,
        _json(places, "config.json"),
        _json(places, "generation_config.json"),
        _json(places, "tokenizer_config.json"),
        _json(places, "preprocessor_config.json"),
        _tokenizers(places),
        pooling or None,
        any(str(module.get("type", "")).endswith("Normalize") for module in modules or ()),
    )


def _graph_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {MODEL: path}
    found = {file.name: file for file in sorted(path.glob("*.onnx"))}
    if not found and (path / "onnx").is_dir():
        return _graph_files(path / "onnx")
    usual = {name: found[name] for name in _ROLES if name in found}
    if usual.keys() & {ENCODER, DECODER, MERGED}:
        usual.pop(MODEL, None)
    if usual:
        return usual
    if not found:
        raise DescriptionError(f"{path}: no .onnx file in this folder")
    if len(found) == 1:
        return {MODEL: next(iter(found.values()))}
    raise DescriptionError(
        f"{path}: {len(found)} graphs ({', '.join(found)}), none with a usual name ({', '.join(_ROLES)});"
        " give the path of one of them, or rename them"
    )


def _json(places: list[Path], name: str) -> Any:
    """The content of the first such file; {} if there is none."""
    for place in places:
        if (file := place / name).is_file():
            try:
                return json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, OSError) as error:
                raise DescriptionError(f"{file}: not valid JSON: {error}") from error
    return {}


def _tokenizers(places: list[Path]) -> dict[str, Path]:
    for place in places:
        if (place / TOKENIZER).is_file():
            return {TOKENIZER: place / TOKENIZER}
    return {}


def open_tokenizer(file: Path) -> Tokenizer:
    """
    Raises:
        DescriptionError: it is not one.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise DescriptionError(f"{file}: not a tokenizer of the tokenizers library: {error}") from error


def check_vocabulary(source: Source, ids: int) -> None:
    """Check that the tokenizer's ids are ids of the model.

    Raises:
        DescriptionError: it has ids that the model does not have.
    """
    for file in source.tokenizers.values():
        largest = max(open_tokenizer(file).get_vocab().values(), default=-1)
        if largest >= ids:
            raise DescriptionError(
                f"{file}: the tokenizer has ids up to {largest}, and the model takes ids below {ids}: it is"
                " that of another model; put the tokenizer of this model in its place"
            )
