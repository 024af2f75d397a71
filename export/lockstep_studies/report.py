"""The files of a study: NAME.json, NAME.svg, and the folder's README.md, generated from every JSON in it.

result → StudyRecord → NAME.json, NAME.svg; all records of the folder → README.md. Every file is written
under a temporary name and then renamed, so an interrupted run never leaves a partial file.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lockstep_export.errors import ExportError
from lockstep_studies.catalogue import STUDIES
from lockstep_studies.drawing import draw
from lockstep_studies.machine import machine, versions
from lockstep_studies.readme import format_readme
from lockstep_studies.study import AnyStudy, StudyRecord, StudyResult

README = "README.md"


def make_record(result: StudyResult, seconds: float) -> StudyRecord:
    """The result with today's date, this machine and the installed versions."""
    return StudyRecord(result, datetime.now(UTC).strftime("%Y-%m-%d"), seconds, machine(), versions())


def read_records(folder: Path) -> list[StudyRecord]:
    """All records in the folder, in the catalogue's order."""
    return [record for study in STUDIES.values() if (record := read(study, folder))]


def read(study: AnyStudy, folder: Path) -> StudyRecord | None:
    """The record of a study in `folder`, or None if there is none. Raises ExportError if it is invalid."""
    path = folder / f"{study.name}.json"
    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        rows = [study.row(**row) for row in saved["rows"]]
        result = StudyResult(study, saved["settings"], rows)
        _ = result.finding, result.table  # rows saved by another version may not fit this one
        return StudyRecord(result, saved["day"], saved["seconds"], saved["machine"], saved["versions"])
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{path} is not a record of this study ({error}): remove it, or run the study again"
        ) from error


def check_folder(folder: Path) -> None:
    """Creates the folder if it is missing. Raises ExportError if it is not writable or holds an invalid
    record."""
    read_records(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ExportError(
            f"cannot write into {folder}: {error.strerror}; name another folder with --out"
        ) from error


def write(record: StudyRecord, folder: Path) -> None:
    """Writes the study's JSON and SVG, and updates the folder's README.md."""
    name = record.result.study.name
    with _atomic(folder / f"{name}.svg") as draft:
        draw(record.result.panels, draft)
    with _atomic(folder / f"{name}.json") as draft:
        draft.write_text(json.dumps(record.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(folder)


def write_page(folder: Path) -> None:
    """Writes README.md from all records in the folder."""
    with _atomic(folder / README) as draft:
        draft.write_text(format_readme(read_records(folder)), encoding="utf-8")


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`: renamed to `path` at the end, deleted if writing fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
