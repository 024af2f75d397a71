"""The folder of models: Triton's layout, `<name>/<version>/model.onnx` with a `model.toml`.

A model file is treated as code: nothing outside the repository is opened, through a link or a
path in a manifest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import LoadError
from ...model.manifest import Manifest
from .manifest_file import read

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "model.toml"
ONESHOT = "model.onnx"


@dataclass(frozen=True)
class RepositoryEntry:
    """A model version on disk, nothing of it opened yet."""

    name: str
    version: int
    folder: Path  # the version's
    root: Path  # the repository's

    @property
    def manifest_file(self) -> Path:
        """The version's own manifest where it has one, else the model's (which may be absent)."""
        own = self.folder / MANIFEST
        return own if own.exists() else self.folder.parent / MANIFEST

    def manifest(self) -> Manifest:
        """
        Raises:
            LoadError: there is a manifest and it is not right.
        """
        file = self.manifest_file
        return read(inside(file, self.root)) if file.exists() else Manifest()

    def has_oneshot(self) -> bool:
        return (self.folder / ONESHOT).exists()

    def graph_file(self, name: str = ONESHOT, key: str = "") -> Path:
        """A graph in the version's folder; `key` of the manifest names it.

        Raises:
            LoadError: there is none, or it lies outside the repository.
        """
        file = self.folder / name
        if not file.exists():
            if key:
                raise LoadError(
                    f"{self.manifest_file}: {key}: {file} is not there; add it or correct the name"
                )
            if (self.folder / "step.onnx").exists():
                raise LoadError(
                    f"{self.folder / 'step.onnx'}: a step graph alone does not tell its states; add a"
                    " model.toml with a [[stepwise.state]] for each"
                )
            raise LoadError(
                f"{file}: is not there; put the ONNX file in the version's folder under this name"
            )
        return inside(file, self.root)

    def beside_manifest(self, name: str, key: str) -> Path:
        """A file that the manifest names, relative to itself; `key` is named in errors.

        Raises:
            LoadError: it is not there, or lies outside the repository.
        """
        file = self.manifest_file.parent / name
        if not file.exists():
            raise LoadError(
                f"{self.manifest_file}: {key}: {name!r} is not there; correct the path or add the file"
            )
        return inside(file, self.root)

    def digest(self) -> str:
        """A hash of all files of the version and of the manifest: what cached verdicts hang on."""
        state = hashlib.sha256()
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            state.update(file.name.encode())
            state.update(inside(file, self.root).read_bytes())
        if self.manifest_file.exists():
            state.update(self.manifest_file.read_bytes())
        return state.hexdigest()


def find(root: Path) -> list[RepositoryEntry]:
    """All model versions under `root`, by name, then version. Folders that hold none are passed over.

    Raises:
        LoadError: `root` is not a folder.
    """
    if not root.is_dir():
        raise LoadError(f"{root}: no such folder; give --models the folder that holds the models")
    return [
        found
        for folder in sorted(root.iterdir())
        if folder.is_dir()
        for found in find_model(root, folder.name)
    ]


def without_versions(root: Path) -> list[str]:
    """Folders under `root` that `find` passes over, in which somebody may have meant to put a model."""
    folders = (child for child in sorted(root.iterdir()) if child.is_dir() and child.name[0] not in "._")
    return [folder.name for folder in folders if not find_model(root, folder.name)]


def find_model(root: Path, name: str) -> list[RepositoryEntry]:
    """The versions of one model; none where there is no such folder."""
    folder = root / name
    if name in ("", ".", "..") or "/" in name or "\\" in name or name.startswith(".") or not folder.is_dir():
        return []
    versions = [child for child in folder.iterdir() if child.is_dir() and _is_version(child.name)]
    return [
        RepositoryEntry(name, int(child.name), child, root)
        for child in sorted(versions, key=lambda c: int(c.name))
    ]


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and name == str(int(name)) and int(name) > 0


def inside(file: Path, root: Path) -> Path:
    """`file` with its links followed.

    Raises:
        LoadError: it leads out of `root`.
    """
    real = file.resolve()
    if not real.is_relative_to(root.resolve()):
        raise LoadError(f"{file}: leads out of the model repository; copy the file into it")
    return real
