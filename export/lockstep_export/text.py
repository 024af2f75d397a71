"""Reads text files and writes tokenizer files; errors name the missing or unreadable file."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from lockstep_export.errors import DataError


def require(folder: Path, names: Sequence[str], layout: str) -> None:
    """Raises DataError if `folder` or any of the files is missing; `layout` describes what is expected."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: {layout}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}: {layout}")


def read_text(path: Path) -> str:
    """The whole file; DataError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_lines(path: Path) -> list[str]:
    """The sentences of a file, one per line; DataError for an empty line or file."""
    text = read_text(path).rstrip("\n")
    if not text:
        raise DataError(f"{path} is empty: expected one sentence per line")
    lines = [line.strip() for line in text.split("\n")]
    empty = [number for number, line in enumerate(lines, start=1) if not line]
    if empty:
        raise DataError(f"{path}:{empty[0]}: expected a sentence, found an empty line")
    return lines


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes the tokenizer as compact JSON that Hugging Face `tokenizers` can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
