"""Publishes a version as a whole or not at all.

`folder`'s parent/.name-…/ (graphs are written and proven here) → folder/<version>/ and folder/model.toml

An existing version stays as it is until the new one is proven. Further versions have their own manifest and
tokenizer in their folders, because their inputs may differ from the first one's.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lockstep_export.errors import DescriptionError, ExportError
from lockstep_export.options import open_tokenizer
from lockstep_export.text import save_tokenizer

MANIFEST = "model.toml"


def require_writable(folder: Path) -> None:
    """Creates `folder` if it does not exist; raises ExportError if nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ExportError(f"cannot write into {folder}: {error.strerror or error}") from error


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` for files that are not yet proven; always removed."""
    if folder.name in ("", ".", "..") or folder.name.startswith("."):
        raise DescriptionError(f"folder: {folder} names no model; use models/NAME")
    require_writable(folder.parent)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(
    draft: Path, folder: Path, version: int, manifest: str, tokenizers: Mapping[str, Any] | None = None
) -> Path:
    """Makes the files of `draft` the given version, replacing an existing one; returns its folder.
    `tokenizers` are by file name."""
    graphs = draft / str(version)
    graphs.mkdir()
    for file in [file for file in draft.iterdir() if file.is_file()]:
        file.rename(graphs / file.name)
    graphs.chmod(0o755)
    manifest_folder = graphs if _versions(folder) - {version} else draft
    (manifest_folder / MANIFEST).write_text(manifest, encoding="utf-8")
    for file_name, tokenizer in (tokenizers or {}).items():
        save_tokenizer(open_tokenizer(tokenizer), manifest_folder / file_name)
    _replace(graphs, folder / str(version), draft)
    for file in [file for file in draft.iterdir() if file.is_file()]:
        file.replace(folder / file.name)
    return folder / str(version)


def _versions(folder: Path) -> set[int]:
    if not folder.is_dir():
        return set()
    return {int(child.name) for child in folder.iterdir() if child.is_dir() and child.name.isdigit()}


def _replace(new: Path, place: Path, draft: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(draft / "replaced")
    new.rename(place)
