"""Hooks of MkDocs, which runs in an environment of its own (Makefile): pages are written again before each
build, drawings take the colours of the site, and nothing is fetched."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_FETCHED = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?://[^"]*)"')
_PICTURE = re.compile(r'<img alt="[^"]*" src="(?P<file>[^":]*\.svg)"\s*/?>')
_log = logging.getLogger("mkdocs.hooks")  # a warning ends a strict build


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
    folder = (Path(config.docs_dir) / page.file.src_uri).parent

    def drawing(image: re.Match[str]) -> str:
        svg = (folder / image["file"]).read_text(encoding="utf-8")
        return svg if 'class="drawing"' in svg else image[0]

    return _PICTURE.sub(drawing, html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Use our copy of the script with which a site opened from files searches, and fetch nothing else."""
    folder = "../" * page.url.count("/")
    local = f'<script src="{folder}iframe-worker.js"></script>' if config.extra_javascript else ""
    output = output.replace('<script src="https://unpkg.com/iframe-worker/shim"></script>', local)
    for fetched in _FETCHED.findall(output):
        _log.warning("%s: the page would fetch %s", page.file.src_uri, fetched)
    return output
