"""The folder of models: what is found, and that nothing outside it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fakes
import pytest

from lockstep_server.engine.loading import repository
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from pathlib import Path


def found(root: Path) -> list[tuple[str, int]]:
    return [(one.name, one.version) for one in repository.find(root)]


def test_versions_are_found_by_name_then_number(tmp_path: Path) -> None:
    for name, version in (("b", 1), ("a", 10), ("a", 2)):
        fakes.write_model(tmp_path, name, b"", version=version)
    assert found(tmp_path) == [("a", 2), ("a", 10), ("b", 1)]


@pytest.mark.parametrize("folder", ["0", "01", "-1", "v1", "1.0", "²", "latest"])
def test_what_is_no_version_is_passed_over(tmp_path: Path, folder: str) -> None:
    (tmp_path / "m" / folder).mkdir(parents=True)
    (tmp_path / "m" / "1").write_text("a file", encoding="utf-8")
    assert found(tmp_path) == []


def test_folders_without_a_version_are_known(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "m", b"")
    for folder in ("empty", "latest/model", ".git/1", "__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    assert repository.without_versions(tmp_path) == ["empty", "latest"]


def test_what_is_no_model_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    (tmp_path / ".git" / "1").mkdir(parents=True)
    assert found(tmp_path) == []


def test_a_repository_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="--models"):
        repository.find(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", ".", "..", "../m", "a/b", "a\\b", ".hidden", "nobody"])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    fakes.write_model(tmp_path / "models", "m", b"")
    fakes.write_model(tmp_path, "m", b"")
    fakes.write_model(tmp_path / "models", ".hidden", b"")
    assert repository.find_model(tmp_path / "models", name) == []


def test_a_version_may_have_a_manifest_of_its_own(tmp_path: Path) -> None:
    folder = fakes.write_model(tmp_path, "m", b"", "[batching]\nmax_rows = 1\n")
    fakes.write_model(tmp_path, "m", b"", version=2)
    (folder / "2" / "model.toml").write_text("[batching]\nmax_rows = 2\n", encoding="utf-8")
    assert [one.manifest().batching.max_rows for one in repository.find(tmp_path)] == [1, 2]


def test_no_manifest_is_the_defaults(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "m", b"")
    (one,) = repository.find(tmp_path)
    assert one.manifest().from_file is False


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (tmp_path / "secret").write_text("", encoding="utf-8")
    (root / "m" / "1").mkdir(parents=True)
    for link in ("1/model.onnx", "model.toml", "words.json"):
        (root / "m" / link).symlink_to(tmp_path / "secret")
    (one,) = repository.find(root)
    for opened in (
        one.graph_file,
        one.manifest,
        one.digest,
        lambda: one.beside_manifest("words.json", "text.source"),
    ):
        with pytest.raises(LoadError, match="leads out"):
            opened()
    with pytest.raises(LoadError, match="leads out"):
        one.beside_manifest("../../secret", "text.source")


def test_a_version_folder_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    fakes.write_model(tmp_path / "outside", "m", b"")
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1").symlink_to(tmp_path / "outside" / "m" / "1")
    (one,) = repository.find(tmp_path / "models")
    with pytest.raises(LoadError, match="leads out"):
        one.graph_file()


def test_links_inside_are_followed(tmp_path: Path) -> None:
    folder = fakes.write_model(tmp_path, "m", b"graph")
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").symlink_to("../1/model.onnx")
    assert repository.find(tmp_path)[1].graph_file().read_bytes() == b"graph"


def test_the_digest_follows_graph_and_manifest(tmp_path: Path) -> None:
    folder = fakes.write_model(tmp_path, "m", b"one", "[batching]\nmax_rows = 1\n")
    (one,) = repository.find(tmp_path)
    digests = {one.digest()}
    assert one.digest() in digests
    (folder / "1" / "model.onnx").write_bytes(b"two")
    digests.add(one.digest())
    (folder / "model.toml").write_text("", encoding="utf-8")
    digests.add(one.digest())
    (folder / "1" / "weights.bin").write_bytes(b"")
    digests.add(one.digest())
    assert len(digests) == 4


def test_what_the_manifest_names_must_be_there(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "m", b"", " ")
    (one,) = repository.find(tmp_path)
    with pytest.raises(LoadError, match=r"m/model.toml: text.source: 'words.json' is not there"):
        one.beside_manifest("words.json", "text.source")
