"""The site of the documents, without MkDocs. `make docs` builds it with warnings as errors."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from deploy.site import hooks
from deploy.site.commands import command_pages
from deploy.site.drawings import drawings
from deploy.site.pages import ROOT, page_of, project_files, project_pages, write
from deploy.site.protos import rpc_pages
from deploy.site.python_api import python_pages
from lockstep_proto.v1 import operations_pb2, sequences_pb2

if TYPE_CHECKING:
    from pathlib import Path


class _Config(yaml.SafeLoader):
    """mkdocs.yml names Python functions, which only MkDocs looks up."""


_Config.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Config)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The text of every page of the site."""
    found = {**project_pages(), **command_pages(), **rpc_pages(), **python_pages()}
    return {name: text for name, text in found.items() if isinstance(text, str)}


@pytest.fixture(scope="module")
def files() -> set[str]:
    return set(project_pages())


def _listed(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for one in (nav.values() if isinstance(nav, dict) else nav) for page in _listed(one)]


def test_the_navigation_lists_every_page_once(pages: dict[str, str]) -> None:
    listed = _listed(CONFIG["nav"])
    assert len(listed) == len(set(listed))
    assert [page for page in listed if page not in pages] == []
    outside = [PurePosixPath(page) for page in pages if page not in listed]
    # An index lists these.
    assert {page.parts[0] for page in outside} == {"decisions", "examples", "files", "models"}


def test_each_page_of_a_folder_is_linked_from_somewhere(pages: dict[str, str]) -> None:
    linked = {target for page in pages for target, _ in _links(page, pages[page])}
    assert [page for page in pages if page not in linked and page not in _listed(CONFIG["nav"])] == []


def test_every_link_and_anchor_of_the_site_resolves(pages: dict[str, str], files: set[str]) -> None:
    broken = [
        f"{page}: {target}#{anchor}"
        for page, text in pages.items()
        for target, anchor in _links(page, text)
        if (target not in files and target not in pages)
        or (anchor and target in pages and anchor not in _anchors(pages[target]))
    ]
    assert broken == []


def _links(page: str, text: str) -> list[tuple[str, str]]:
    prose = re.sub(r"^(````*).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    parts = [link.partition("#") for link in found if "://" not in link and not link.startswith("mailto:")]
    return [
        (os.path.normpath(PurePosixPath(page).parent / name) if name else page, anchor)
        for name, _, anchor in parts
    ]


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reference_describes_every_rpc_message_and_field(pages: dict[str, str]) -> None:
    for module, page in ((sequences_pb2, "sequences"), (operations_pb2, "operations")):
        text = pages[f"reference/{page}.md"]
        (service,) = module.DESCRIPTOR.services_by_name.values()
        assert [one.name for one in service.methods if f"| `{one.name}` |" not in text] == []
        for message in module.DESCRIPTOR.message_types_by_name.values():
            described = text.partition(f"### {message.name}\n")[2].partition("\n### ")[0]
            assert [one.name for one in message.fields if f"| `{one.name}` |" not in described] == []


def test_every_public_name_of_python_has_a_directive(pages: dict[str, str]) -> None:
    import lockstep_client
    import lockstep_export

    for package, page in ((lockstep_client, "python-client"), (lockstep_export, "python-export")):
        found = re.findall(r"^::: [\w.]+\.(\w+)$", pages[f"reference/{page}.md"], re.MULTILINE)
        assert sorted(found) == sorted(package.__all__)


def test_drawings_are_part_of_their_page_and_plots_are_not(tmp_path: Path) -> None:
    drawn = drawings()
    write(tmp_path, {"concepts/x.svg": drawn["padding.svg"], "plot.svg": "<svg></svg>"})
    config = SimpleNamespace(docs_dir=str(tmp_path))
    page = SimpleNamespace(file=SimpleNamespace(src_uri="concepts/padding.md"))
    html = '<p><img alt="a" src="x.svg" /> <img alt="b" src="../plot.svg" /></p>'
    shown = hooks.on_page_content(html, page=page, config=config, files=None)
    assert shown == f'<p>{drawn["padding.svg"]} <img alt="b" src="../plot.svg" /></p>'
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs/concepts").glob("*.md")}
    assert [name for name in drawn if f"]({name})" not in pages[name.removesuffix(".svg")]] == []


@pytest.mark.parametrize(
    ("tag", "fetched"),
    [
        ('<script src="https://unpkg.com/x"></script>', 1),
        ('<link rel="stylesheet" href="https://fonts.googleapis.com/x">', 1),
        ('<img src="https://img.shields.io/x">', 1),
        ('<a href="https://grafana.com">', 0),
        ('<script src="mermaid.min.js"></script>', 0),
    ],
)
def test_a_page_that_would_fetch_something_ends_the_build(
    tag: str, fetched: int, caplog: pytest.LogCaptureFixture
) -> None:
    page = SimpleNamespace(url="a/b.html", file=SimpleNamespace(src_uri="a/b.md"))
    config = SimpleNamespace(extra_javascript=["mermaid.min.js"])
    shim = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
    assert hooks.on_post_page(shim + tag, page=page, config=config) == (
        f'<script src="../iframe-worker.js"></script>{tag}'
    )
    assert len(caplog.records) == fetched


def test_every_file_of_the_project_has_its_own_page() -> None:
    found = [page_of(file) for file in project_files()]
    assert len(found) == len(set(found)) > 70


def test_pages_that_are_gone_are_removed_and_others_are_not_touched(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "a", "b/c.md": "c"})
    before = (tmp_path / "a.md").stat().st_mtime_ns
    write(tmp_path, {"a.md": "a", "b/d.md": "d"})
    assert (tmp_path / "a.md").stat().st_mtime_ns == before
    assert sorted(one.name for one in tmp_path.rglob("*.md")) == ["a.md", "d.md"]
