"""What a study leaves behind: NAME.json, NAME.svg, and the folder's README.md, made of every JSON in it.

All is written beside its place first and moved there when it is whole, so nothing is ever half there.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lockstep_export.errors import ExportError
from lockstep_studies.catalogue import STUDIES
from lockstep_studies.drawing import draw
from lockstep_studies.machine import machine, versions
from lockstep_studies.readme import page
from lockstep_studies.study import AnyStudy, StudyResult

PAGE = "README.md"


@dataclass(frozen=True)
class StudyRecord:
    """A result, and what it was made on."""

    result: StudyResult
    day: str
    seconds: float  # that the measuring took
    machine: dict[str, Any]
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """One object; the rows last."""
        study = self.result.study
        return {
            "study": study.name,
            "question": study.question,
            "finding": self.result.finding,
            "method": self.result.method,
            "day": self.day,
            "seconds": round(self.seconds, 1),
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.result.settings,
            "rows": [asdict(row) for row in self.result.rows],
        }


def recorded(result: StudyResult, seconds: float) -> StudyRecord:
    """The result as measured here and today."""
    return StudyRecord(result, datetime.now(UTC).strftime("%Y-%m-%d"), seconds, machine(), versions())


def records(folder: Path) -> list[StudyRecord]:
    """All that is kept in the folder, in the catalogue's order."""
    return [record for study in STUDIES.values() if (record := read(study, folder))]


def read(study: AnyStudy, folder: Path) -> StudyRecord | None:
    """What is kept of a study in `folder`, or None where there is nothing."""
    path = folder / f"{study.name}.json"
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows = [study.row(**row) for row in kept["rows"]]
        result = StudyResult(study, kept["settings"], rows)
        _ = result.finding, result.table  # what was kept by another version may not be told by this one
        return StudyRecord(result, kept["day"], kept["seconds"], kept["machine"], kept["versions"])
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{path} is not what this study writes ({error}): remove it, or run it again"
        ) from error


def check_folder(folder: Path) -> None:
    """Makes the folder where it is not there; ExportError where nothing can be written into it, or where
    something in it cannot be told on its page."""
    records(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ExportError(
            f"cannot write into {folder}: {error.strerror}; name another folder with --out"
        ) from error


def write(record: StudyRecord, folder: Path) -> None:
    """Writes the study's JSON and picture, and the folder's page again."""
    name = record.result.study.name
    with _whole(folder / f"{name}.svg") as beside:
        draw(record.result.panels, beside)
    with _whole(folder / f"{name}.json") as beside:
        beside.write_text(json.dumps(record.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(folder)


def write_page(folder: Path) -> None:
    """Writes README.md of all that is kept in the folder."""
    with _whole(folder / PAGE) as beside:
        beside.write_text(page(records(folder)), encoding="utf-8")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A place beside `path`; what is written there takes its place at the end, or is gone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
