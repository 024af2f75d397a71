"""From a draft that nobody serves to a version that a server loads: all of it, or none of it.

folder's parent/.name-…/  graphs are written and proven here → folder/<version>/ and folder/model.toml

What is there stays as it was until the new version is proven. A further version has a manifest and a
tokenizer of its own, in its folder: it may take other inputs than the first.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lockstep_export.errors import DescriptionError
from lockstep_export.folders import require_writable
from lockstep_export.options import open_tokenizer
from lockstep_export.text import save_tokenizer

MANIFEST, TOKENIZER = "model.toml", "tokenizer.json"


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` for what is not proven; gone afterwards, whatever happens."""
    if folder.name in ("", ".", "..") or folder.name.startswith("."):
        raise DescriptionError(f"folder: {folder} names no model; give models/NAME")
    require_writable(folder.parent)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, folder: Path, version: int, manifest: str, tokenizer: Any = None) -> Path:
    """Makes the files of `draft` the model's version, in place of one that there is; returns its folder."""
    graphs = draft / str(version)
    graphs.mkdir()
    for file in [file for file in draft.iterdir() if file.is_file()]:
        file.rename(graphs / file.name)
    graphs.chmod(0o755)
    own = graphs if _versions(folder) - {version} else draft
    (own / MANIFEST).write_text(manifest, encoding="utf-8")
    if tokenizer is not None:
        save_tokenizer(open_tokenizer(tokenizer), own / TOKENIZER)
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
