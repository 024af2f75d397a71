"""What the documentation names exists: links, settings, metrics, manifest keys, verbs and flags."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from lockstep_client.cli import app as client_app
from lockstep_export.cli import app as export_app
from lockstep_load.command import app as load_app
from lockstep_server.engine.loading import manifest_file
from lockstep_server.metrics.families import Metrics
from lockstep_server.metrics.gpus import Gpus
from lockstep_server.model import manifest
from lockstep_server.settings import Settings
from lockstep_server.settings import command as serve_command

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (
        ".",
        "docs",
        "docs/concepts",
        "docs/decisions",
        "docs/moving",
        "docs/studies",
        "bench",
        "examples",
        "models",
        "models/*",
    )
    for path in ROOT.glob(f"{folder}/*.md")
)
SETTINGS = ROOT / "docs" / "settings.md"
METRICS = ROOT / "docs" / "metrics.md"
MANIFEST = ROOT / "docs" / "manifest.md"
TROUBLES = ROOT / "docs" / "troubleshooting.md"


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = [
        link
        for link in links
        if "://" not in link and not _resolves(page, link) and not link.startswith("mailto:")
    ]
    assert broken == []


def _resolves(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_test_of_a_promise_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text[text.index("## Promises and their tests") : text.index("## Where to add things")]
    files = re.findall(r"`([\w/]+/test_\w+\.py)`", table)
    assert len(files) > 50
    assert [file for file in files if not (ROOT / "tests" / file).is_file()] == []


def test_every_threat_has_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = text[text.index("## Actors and threats") : text.index("## Out of scope")].splitlines()
    threats = [row for row in rows if row.startswith("|")][2:]
    assert len(threats) > 10
    for row in threats:
        files = re.findall(r"`([\w/]+/test_\w+\.py)`", row)
        assert files, row
        assert [file for file in files if not (ROOT / "tests" / file).is_file()] == []


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]*) \|", SETTINGS.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {
        name: default.strip().strip('`"').lower()
        for names, defaults in rows
        for name, default in zip(
            re.findall(r"`(\w+)`", names), _defaults(defaults, names.count("`") // 2), strict=True
        )
    }
    real = {one.name: _format(one.default) for one in fields(Settings)}
    assert {name: documented.get(name) for name in real} == real


def _format(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default).lower()


def _defaults(defaults: str, count: int) -> list[str]:
    return defaults.split(", ") if count > 1 else [defaults]


def test_exactly_the_exported_metrics_are_documented() -> None:
    names = re.findall(r"`((?:lockstep|grpc_server)_\w+[a-z])`", METRICS.read_text(encoding="utf-8"))
    families = [*Metrics().registry.collect(), *Gpus(FakeNvml()).collect()]
    real = {
        f"{one.name}_total" if one.type == "counter" else one.name
        for one in families
        if one.name.startswith(("lockstep_", "grpc_server_"))
    }
    assert set(names) == real


class FakeNvml:
    """A machine without GPUs, which exports the GPU families all the same."""

    def nvmlDeviceGetCount(self) -> int:
        return 0


def test_every_manifest_key_is_documented() -> None:
    text = MANIFEST.read_text(encoding="utf-8")
    tables = (
        manifest.Manifest, manifest.TextSection, manifest.LengthSection, manifest.TensorSection,
        manifest.RolesSection, manifest.BatchingSection, manifest.InstancesSection, manifest.PrefillSection,
        manifest.StepwiseSection, manifest.StateSection,
    )  # fmt: skip
    keys = {one.name for table in tables for one in fields(table)} - {"from_file"}
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", text)] == []


@pytest.mark.parametrize(
    ("index", "task"),
    [(0, "classify"), (1, "tensor"), (2, "ctc"), (3, "encode"), (4, "translate"), (5, "tensor")],
)
def test_the_manifests_in_the_docs_are_valid(index: int, task: str) -> None:
    parsed = manifest_file.parse(tomllib.loads(_blocks(MANIFEST, "toml")[index]))
    assert parsed.task == task


PROGRAMS = {"lockstep": client_app, "lockstep-export": export_app}


def _commands() -> list[str]:
    blocks = [block for page in PAGES for block in _blocks(page, "(?:console|sh|bash)?")]
    lines = [
        line.removeprefix("$ ") for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]
    return [line for line in lines if line.startswith(tuple(f"{program} " for program in PROGRAMS))]


@pytest.mark.parametrize("line", _commands())
def test_commands_in_the_docs_use_existing_verbs_and_flags(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    command = typer.main.get_command(PROGRAMS[program])
    while words and not words[0].startswith("-"):
        if command.name == "load" and not hasattr(command, "commands"):
            command = typer.main.get_command(load_app)  # imported only when it is used
        if not hasattr(command, "commands"):
            break
        assert words[0] in command.commands, (
            f"{words[0]} is not a verb; available: {', '.join(command.commands)}"
        )
        command = command.commands[words.pop(0)]
    known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {
        "--help"
    }
    if command.name == "doctor":  # it takes those of the server, too
        known |= {flag for option in serve_command(lambda _: 0, "0").params for flag in option.opts}
    assert [word for word in words if word.startswith("--") and word.split("=")[0] not in known] == []


def _messages() -> list[str]:
    """The messages that docs/troubleshooting.md explains: the first cells of its rows."""
    rows = re.findall(r"^\| (`+)(.+?)\1 \|", TROUBLES.read_text(encoding="utf-8"), re.MULTILINE)
    return [message for _, message in rows]


@pytest.fixture(scope="module")
def said() -> list[str]:
    """Every text in the source, with … for what is filled in."""
    trees = [
        ast.parse(file.read_text(encoding="utf-8"))
        for folder in ("server/lockstep_server", "clients", "export/lockstep_export")
        for file in (ROOT / folder).rglob("*.py")
    ]
    return [text for tree in trees for node in ast.walk(tree) if (text := _text(node))]


def _text(node: ast.AST) -> str:
    """A string as it is written, `%s`, `{}` and expressions replaced by …; "" for other nodes."""
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts = [node.value]
    else:
        return ""
    return re.sub(r"%[-+ #0-9.]*[a-z]|\{\}", "…", "".join(parts))


@pytest.mark.parametrize("message", _messages())
def test_messages_in_the_docs_are_those_of_the_source(message: str, said: list[str]) -> None:
    assert any(message in text for text in said)


def test_troubleshooting_explains_many_messages() -> None:
    messages = _messages()
    assert len(messages) == len(set(messages)) > 60
