"""The model repository: finding models, and opening nothing outside it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import fakes
import pytest

from lockstep_server.engine.loading import repository
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from pathlib import Path


def found(root: Path) -> list[tuple[str, int]]:
    return [(entry.name, entry.version) for entry in repository.find_models(root)]


def test_versions_are_sorted_by_name_and_number(tmp_path: Path) -> None:
    for name, version in (("b", 1), ("a", 10), ("a", 2)):
        fakes.write_model(tmp_path, name, b"", version=version)
    assert found(tmp_path) == [("a", 2), ("a", 10), ("b", 1)]


@pytest.mark.parametrize("folder", ["0", "01", "-1", "v1", "1.0", "²", "latest", "9" * 19])
def test_other_folders_of_a_model_are_skipped(tmp_path: Path, folder: str) -> None:
    (tmp_path / "m" / folder).mkdir(parents=True)
    (tmp_path / "m" / "1").write_text("a file", encoding="utf-8")
    assert found(tmp_path) == []


def test_folders_without_a_version_are_listed(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "m", b"")
    for folder in ("empty", "latest/model", ".git/1", "__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    assert repository.folders_without_versions(tmp_path) == ["empty", "latest"]


def test_files_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    (tmp_path / ".git" / "1").mkdir(parents=True)
    assert found(tmp_path) == []


def test_a_missing_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="--models"):
        repository.find_models(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", ".", "..", "../m", "a/b", "a\\b", ".hidden", "nobody"])
def test_a_name_that_is_not_a_visible_folder_has_no_versions(tmp_path: Path, name: str) -> None:
    fakes.write_model(tmp_path / "models", "m", b"")
    fakes.write_model(tmp_path, "m", b"")
    fakes.write_model(tmp_path / "models", ".hidden", b"")
    assert repository.find_versions(tmp_path / "models", name) == []


def test_the_manifest_of_a_version_overrides_that_of_the_model(tmp_path: Path) -> None:
    folder = fakes.write_model(tmp_path, "m", b"", "[batching]\nmax_rows = 1\n")
    fakes.write_model(tmp_path, "m", b"", version=2)
    (folder / "2" / "model.toml").write_text("[batching]\nmax_rows = 2\n", encoding="utf-8")
    assert [entry.manifest().batching.max_rows for entry in repository.find_models(tmp_path)] == [1, 2]


def test_without_a_manifest_the_defaults_apply(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "m", b"")
    (entry,) = repository.find_models(tmp_path)
    assert entry.manifest().from_file is False


def test_links_out_of_the_repository_are_rejected(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (tmp_path / "secret").write_text("", encoding="utf-8")
    (root / "m" / "1").mkdir(parents=True)
    for link in ("1/model.onnx", "model.toml", "words.json"):
        (root / "m" / link).symlink_to(tmp_path / "secret")
    (entry,) = repository.find_models(root)
    for open_file in (
        entry.graph_file,
        entry.manifest,
        entry.digest,
        lambda: entry.referenced_file("words.json"),
    ):
        with pytest.raises(LoadError, match="outside of the model repository"):
            open_file()
    with pytest.raises(LoadError, match="outside of the model repository"):
        entry.referenced_file("../../secret")


def test_a_version_folder_that_links_out_of_the_repository_is_rejected(tmp_path: Path) -> None:
    fakes.write_model(tmp_path / "outside", "m", b"")
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1").symlink_to(tmp_path / "outside" / "m" / "1")
    (entry,) = repository.find_models(tmp_path / "models")
    with pytest.raises(LoadError, match="outside of the model repository"):
        entry.graph_file()


def test_links_inside_are_followed(tmp_path: Path) -> None:
    folder = fakes.write_model(tmp_path, "m", b"graph")
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").symlink_to("../1/model.onnx")
    assert repository.find_models(tmp_path)[1].graph_file().read_bytes() == b"graph"


def test_the_digest_changes_with_every_file(tmp_path: Path) -> None:
    folder = fakes.write_model(tmp_path, "m", b"one", "[batching]\nmax_rows = 1\n")
    (entry,) = repository.find_models(tmp_path)
    digests = {entry.digest()}
    assert entry.digest() in digests
    (folder / "1" / "model.onnx").write_bytes(b"two")
    digests.add(entry.digest())
    (folder / "model.toml").write_text("", encoding="utf-8")
    digests.add(entry.digest())
    (folder / "1" / "weights.bin").write_bytes(b"")
    digests.add(entry.digest())
    assert len(digests) == 4


def test_a_missing_file_that_the_manifest_names_is_an_error(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "m", b"", " ")
    (entry,) = repository.find_models(tmp_path)
    with pytest.raises(LoadError, match=r"'words.json' does not exist"):
        entry.referenced_file("words.json")


def test_a_folder_whose_name_is_not_utf_8_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("m", os.fsdecode(b"odd\xff")):
        fakes.write_model(tmp_path, name, b"")
    assert found(tmp_path) == [("m", 1)]
    assert "not UTF-8" in caplog.text


def test_a_folder_that_cannot_be_listed_is_skipped_and_named_by_a_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "locked", "z"):
        fakes.write_model(tmp_path, name, b"")
    scandir = os.scandir

    def refuse(folder: Path) -> Any:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(tmp_path) == [("a", 1), ("z", 1)]
    assert "locked: cannot be listed (Permission denied)" in caplog.text
    with pytest.raises(LoadError, match="locked: cannot be listed"):
        repository.find_versions(tmp_path, "locked")


def test_file_names_that_are_not_utf_8_are_part_of_the_digest(tmp_path: Path) -> None:
    folder = fakes.write_model(tmp_path, "m", b"")
    (folder / "1" / os.fsdecode(b"odd\xff")).write_bytes(b"")
    (entry,) = repository.find_models(tmp_path)
    assert entry.digest()


def test_models_of_several_folders_are_one_list_and_share_no_name(tmp_path: Path) -> None:
    for folder, names in (("a", ("x", "z")), ("b", ("y",)), ("c", ("x",))):
        for name in names:
            fakes.write_model(tmp_path / folder, name, fakes.identity())
    found = repository.find_models(tmp_path / "b", tmp_path / "a")
    assert [(entry.name, entry.root.name) for entry in found] == [("x", "a"), ("y", "b"), ("z", "a")]
    with pytest.raises(LoadError, match=r"model 'x' is in \S+/a and in \S+/c; rename or remove one"):
        repository.find_models(tmp_path / "a", tmp_path / "c")
