"""Adds to the wheel what is not inside a package of the checkout; all else is in pyproject.toml.

models/NAME → lockstep_server/examples/NAME, which `lockstep-serve --models examples:` serves
proto/lockstep/ → lockstep_proto/protos/lockstep/, for callers in other languages
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODELS = (
    "sentiment-bow",
    "sentiment-lstm",
    "sentiment-transformer",
    "shakespeare-char-lstm",
    "shakespeare-gpt",
)
"""As many as the verbs and the page need, 9 MB; all shipped models would be 38 MB."""


class BuildWithModels(build_py):
    """`build_py`, and the files above. An editable install finds them in the checkout."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # what an earlier build left would be packed
        super().run()
        for source, target in self._added():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self._added())]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *(str(source) for source, _ in self._added())]

    def _added(self) -> list[tuple[Path, Path]]:
        if self.editable_mode:
            return []
        lib, models = Path(self.build_lib), Path("models")
        found = [
            (file, lib / "lockstep_proto/protos" / file.relative_to("proto"))
            for file in _files("proto/lockstep")
        ]
        # The images have all models elsewhere, and build this without the folder.
        for name in MODELS if models.is_dir() else ():
            if not (files := _files(str(models / name))):
                raise SystemExit(f"setup.py: no files in models/{name}")
            found += [(file, lib / "lockstep_server/examples" / file.relative_to(models)) for file in files]
        if models.is_dir():  # `lockstep doctor` compares the files with these hashes
            found.append((models / "SHA256SUMS", lib / "lockstep_server/examples/SHA256SUMS"))
        return found


def _files(folder: str) -> list[Path]:
    return sorted(
        file for file in Path(folder).rglob("*") if file.is_file() and not file.name.startswith(".")
    )


setup(cmdclass={"build_py": BuildWithModels})
