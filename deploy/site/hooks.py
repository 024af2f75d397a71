"""Hooks of MkDocs, which runs in an environment of its own (Makefile): pages are written again before each
build, drawings take the colours of the site, and nothing is fetched."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_DRAWING = re.compile(r'<img alt="[^"]*" src="[^"]*(?P<file>concepts/[^"/]*\.svg)"\s*/?>')


def on_config(config: Any) -> Any:
    """Write the pages that have changed. PYTHON can import the project's commands."""
    scripts = os.environ.get("SCRIPTS", "").split()
    command = [os.environ["PYTHON"], "-m", "deploy.site", config.docs_dir, *scripts]
    subprocess.run(command, cwd=ROOT, check=True)
    if scripts:
        config.extra_javascript.append("mermaid.min.js")
    else:  # diagrams are shown as they are written; Material would fetch the script
        config.mdx_configs["pymdownx.superfences"] = {}
    return config


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Put drawings into the page, where they follow its light and dark colours."""

    def drawing(image: re.Match[str]) -> str:
        return (Path(config.docs_dir) / image["file"]).read_text(encoding="utf-8")

    return _DRAWING.sub(drawing, html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Search in a site that is opened from files needs a script that Material would fetch."""
    folder = "../" * page.url.count("/")
    local = f'<script src="{folder}iframe-worker.js"></script>' if config.extra_javascript else ""
    return output.replace('<script src="https://unpkg.com/iframe-worker/shim"></script>', local)
