"""Folders that are written to: tried before any time is spent."""

import tempfile
from pathlib import Path

from lockstep_export.errors import ExportError


def require_writable(folder: Path) -> None:
    """Makes `folder` where there is none, or raises ExportError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ExportError(f"cannot write into {folder}: {error.strerror or error}") from error
