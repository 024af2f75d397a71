"""The model repository, a folder in Triton's layout: `<name>/<version>/model.onnx` with a `model.toml`.

folder → `find_models` → `RepositoryEntry` per version → paths of its graphs, manifest and tokenizers

Model files are treated as code: nothing outside the repository is opened, neither through a link nor
through a path in a manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import LoadError
from ...model.manifest import Manifest
from . import manifest_file

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

MANIFEST = "model.toml"
ONESHOT = "model.onnx"
_MAX_VERSION_DIGITS = 18
"""A longer version number does not fit an int64."""


@dataclass(frozen=True)
class RepositoryEntry:
    """A model version on disk. Files are opened only by the methods."""

    name: str
    version: int
    folder: Path  # of the version
    root: Path  # of the repository

    @property
    def manifest_path(self) -> Path:
        """The manifest in the version's folder if it exists, else that of the model, which may not exist."""
        of_version = self.folder / MANIFEST
        return of_version if of_version.exists() else self.folder.parent / MANIFEST

    def manifest(self) -> Manifest:
        """Read the manifest; the default one if there is no file.

        Raises:
            LoadError: the manifest is invalid or lies outside the repository.
        """
        file = self.manifest_path
        return manifest_file.read(resolve_inside(file, self.root)) if file.exists() else Manifest()

    def check_files(self) -> None:
        """
        Raises:
            LoadError: the version has something that is neither a file nor a folder. To read a pipe, for
                instance, would take for ever.
        """
        for path in (self.manifest_path, *self.folder.parent.glob("*"), *self.folder.rglob("*")):
            _check_readable(path)

    def has_oneshot(self, manifest: Manifest) -> bool:
        """Whether the version has a one-shot graph: a `model.onnx` that is none of its other graphs."""
        sections = (manifest.stepwise, manifest.prefill, manifest.encoder)
        others = {section.graph for section in sections if section is not None}
        return ONESHOT not in others and (self.folder / ONESHOT).exists()

    def graph_file(self, name: str = ONESHOT, key: str = "") -> Path:
        """The path of a graph in the version's folder. `key` is the manifest key that names it, if any.

        Raises:
            LoadError: the file does not exist or lies outside the repository.
        """
        file = self.folder / name
        if not file.exists():
            if key:
                raise LoadError(
                    f"{self.manifest_path}: {key}: {file} does not exist; add the file or correct the name"
                )
            if (self.folder / "step.onnx").exists():
                raise LoadError(
                    f"{self.folder / 'step.onnx'}: a step graph needs a manifest; add a model.toml with one"
                    " [[stepwise.state]] per state"
                )
            raise LoadError(f"{file}: file does not exist; put the ONNX graph there under this name")
        if file.is_dir():  # Triton's form for a graph with its weights in files beside it
            folder, file = file, file / ONESHOT
            if not file.is_file():
                raise LoadError(
                    f"{folder}: a folder without {ONESHOT}; put the ONNX graph into it under this name"
                )
        return resolve_inside(file, self.root)

    def referenced_file(self, name: str) -> Path:
        """The path of a file that the manifest names relative to itself.

        Raises:
            LoadError: the file does not exist or lies outside the repository.
        """
        file = self.manifest_path.parent / name
        if not file.exists():
            raise LoadError(f"{name!r} does not exist; correct the path or add the file")
        return resolve_inside(file, self.root)

    def digest(self) -> str:
        """A hash of the manifest and all files of the version. Cached self-test results are valid for it."""
        state = hashlib.sha256()
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            state.update(os.fsencode(file.name))
            state.update(resolve_inside(file, self.root).read_bytes())
        for file in sorted(self.manifest_path.parent.glob("*.npy")):  # the first values of states
            state.update(resolve_inside(file, self.root).read_bytes())
        if self.manifest_path.exists():
            state.update(self.manifest_path.read_bytes())
        return state.hexdigest()

    def with_tokenizers(self, digest: str, manifest: Manifest) -> str:
        """`digest`, with the tokenizers that the manifest names: a hash of all that makes an answer."""
        state = hashlib.sha256(digest.encode())
        text = manifest.text
        for name in (text.source, text.target) if text is not None else ():
            state.update(self.referenced_file(name).read_bytes() if name else b"")
        return state.hexdigest()


def find_models(*roots: Path) -> list[RepositoryEntry]:
    """All model versions under `roots`, sorted by name and version. Other folders are skipped.

    Raises:
        LoadError: one of `roots` is not a folder, or cannot be listed; or two have a model of the same name.
    """
    found: dict[str, list[RepositoryEntry]] = {}
    for root in roots:
        if not root.is_dir():
            raise LoadError(f"{root}: no such folder; set --models to the folder that contains the models")
        for name in _folder_names(root):
            if entries := _readable_versions(root, name):
                if name in found:
                    raise LoadError(
                        f"model {name!r} is in {found[name][0].root} and in {root}; rename or remove one"
                    )
                found[name] = entries
    return [entry for name in sorted(found) for entry in found[name]]


def folders_without_versions(root: Path) -> list[str]:
    """Visible folders under `root` that `find_models` skips: probably misplaced models."""
    return [
        name for name in _folder_names(root) if name[0] not in "._" and not _readable_versions(root, name)
    ]


def _folder_names(root: Path) -> list[str]:
    return sorted(folder.name for folder in _subfolders(root))


def _readable_versions(root: Path, name: str) -> list[RepositoryEntry]:
    """As `find_versions`. A folder that cannot be listed, or served by its name, is logged and has none."""
    try:
        name.encode()
        return find_versions(root, name)
    except UnicodeEncodeError:
        log.warning("%a: the name of this folder is not UTF-8; rename it to serve it", str(root / name))
    except LoadError as error:
        log.warning("%s", error)
    return []


def find_versions(root: Path, name: str) -> list[RepositoryEntry]:
    """The versions of one model, ascending. Empty if there is no such model.

    Raises:
        LoadError: the model's folder cannot be listed.
    """
    folder = root / name
    if (
        name in ("", ".", "..")
        or "/" in name
        or "\\" in name
        or name.startswith(".")
        or not os.path.isdir(folder)
    ):
        return []
    versions = [child for child in _subfolders(folder) if _is_version(child.name)]
    return [
        RepositoryEntry(name, int(child.name), child, root)
        for child in sorted(versions, key=lambda c: int(c.name))
    ]


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as children:
            return [folder / child.name for child in children if child.is_dir()]
    except OSError as error:
        raise LoadError(
            f"{folder}: cannot be listed ({error.strerror}); give the server's user the right to read it"
        ) from error


def _is_version(name: str) -> bool:
    if not (name.isascii() and name.isdigit() and len(name) <= _MAX_VERSION_DIGITS):
        return False
    return name == str(int(name)) and int(name) > 0


def resolve_inside(file: Path, root: Path) -> Path:
    """`file` with its links resolved.

    Raises:
        LoadError: it is outside `root`.
    """
    _check_readable(file)
    real = file.resolve()
    if not real.is_relative_to(root.resolve()):
        raise LoadError(f"{file}: outside of the model repository; copy the file into it")

    return real


def _check_readable(path: Path) -> None:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise LoadError(f"{path}: neither a file nor a folder; replace it by a regular file")
