"""The Markdown files of the project as pages of the site.

On GitHub and in an editor, pages link to one another and to any file of the project by relative paths. On the
site, a link to a page leads to that page, a link to a source file to a page that shows it, and a link to a
folder without a page becomes plain text.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]

_NAMED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "threats.md",
    "bench/README.md": "benchmarks.md",
    "docs/decisions": "decisions/index.md",
    "examples/README.md": "examples/index.md",
    "models/README.md": "models/index.md",
    "proto/lockstep/model_config.proto": "reference/model-config.md",
    "proto/lockstep/open_inference.proto": "reference/open-inference.md",
    "proto/lockstep/v1/operations.proto": "reference/operations.md",
    "proto/lockstep/v1/sequences.proto": "reference/sequences.md",
}
_LANGUAGES = {
    ".py": "python",
    ".js": "js",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
    ".proto": "proto",
}
_LINK = re.compile(
    r"(?P<before>!?\[(?P<text>[^\]]*)\](?:\(|: ))(?P<target>[^)\s]+)(?P<after>\)|$)", re.MULTILINE
)
_TITLE = re.compile(r"^# (.*)$", re.MULTILINE)

Pages = dict[str, str | bytes]
"""Contents by path below the folder of pages."""


def project_files() -> list[str]:
    """The Markdown files that are pages, by path below the root of the project."""
    patterns = ("*.md", "docs/**/*.md", "bench/README.md", "examples/**/README.md", "models/**/README.md")
    found = {path.relative_to(ROOT).as_posix() for one in patterns for path in ROOT.glob(one)}
    return sorted(path for path in found if "node_modules" not in path)


def page_of(path: str) -> str | None:
    """The page that shows a file or folder of the project. None: there is none."""
    if path in _NAMED:
        return _NAMED[path] if path != "CHANGELOG.md" or (ROOT / path).exists() else None
    if path.endswith("/README.md"):
        folder = PurePosixPath(path.removeprefix("docs/")).parent
        return f"{folder}/index.md" if path.startswith("docs/") else f"{folder}.md"
    if path.endswith(".md"):
        return path.removeprefix("docs/")
    return page_of(f"{path}/README.md") if (ROOT / path / "README.md").is_file() else None


def project_pages() -> Pages:
    """The pages of the project's Markdown files, what they show and link to, and a list of decisions."""
    pages: Pages = {}
    for file in project_files():
        page = page_of(file)
        assert page
        pages[page] = _converted(file, page, pages)
    for folder, heading in (("decisions", "# Decisions"), ("examples", "## Pages"), ("models", "## Cards")):
        index = f"{folder}/index.md"
        first = str(pages.get(index, ""))
        pages[index] = f"{first}\n{heading}\n\n{_list(folder)}"
    pages["site.css"] = (Path(__file__).parent / "site.css").read_bytes()
    pages["icon.svg"] = (ROOT / "clients" / "lockstep_ui" / "static" / "icon.svg").read_bytes()
    return pages


def _converted(file: str, page: str, pages: Pages) -> str:
    text = (ROOT / file).read_text(encoding="utf-8")
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    convert = partial(_link, file, page, pages)
    return "".join(part if part.startswith("```") else _LINK.sub(convert, part) for part in parts)


def _link(file: str, page: str, pages: Pages, link: re.Match[str]) -> str:
    name, _, anchor = link["target"].partition("#")
    if "://" in name or name.startswith("mailto:") or not name:
        return link[0]
    path = os.path.normpath(PurePosixPath(file).parent / name)
    target = page_of(path) or _shown(path, pages)
    if target is None:
        return link["text"]
    relative = os.path.relpath(target, PurePosixPath(page).parent)
    before = link["before"]
    if link["text"].endswith(name) and path.endswith(
        ".md"
    ):  # a file name says little where there are no files
        before = before.replace(link["text"], _title(path))
    return f"{before}{relative}{'#' * bool(anchor)}{anchor}{link['after']}"


def _shown(path: str, pages: Pages) -> str | None:
    """Add a file that is no page: a picture as it is, a text in a page of its own. None: it is a folder."""
    file = ROOT / path
    if not file.is_file():
        return None
    if file.suffix in (".png", ".svg", ".json"):
        target = path.removeprefix("docs/")
        pages[target] = file.read_bytes()
        return target
    target = f"files/{path}.md"
    language = _LANGUAGES.get(file.suffix, "text")
    pages[target] = f"# {path}\n\n````{language}\n{file.read_text(encoding='utf-8')}````\n"
    return target


def _list(folder: str) -> str:
    """Links to the pages of a folder, by their titles."""
    pages = {page: file for file in project_files() if (page := str(page_of(file))).startswith(f"{folder}/")}
    rows = [f"- [{_title(file)}]({page.removeprefix(f'{folder}/')})" for page, file in pages.items()]
    return "\n".join(row for row in rows if "(index.md)" not in row) + "\n"


def _title(file: str) -> str:
    found = _TITLE.search((ROOT / file).read_text(encoding="utf-8"))
    assert found, f"{file} has no title"
    return found[1]


def write(folder: Path, pages: Pages) -> None:
    """Write what has changed, and remove what is gone: a live site is built again for each change."""
    for name, content in pages.items():
        file = folder / name
        data = content.encode() if isinstance(content, str) else content
        if not file.is_file() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).as_posix() not in pages:
            file.unlink()
