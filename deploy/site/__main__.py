"""`python -m deploy.site FOLDER [SCRIPT ...]`: write the pages that MkDocs reads, and copy their scripts."""

from __future__ import annotations

import sys
from pathlib import Path

from .commands import command_pages
from .pages import project_pages, write
from .protos import rpc_pages
from .python_api import python_pages

if __name__ == "__main__":
    folder, *scripts = (Path(one) for one in sys.argv[1:])
    shared = {one.name: one.read_bytes() for one in scripts}
    write(folder, {**project_pages(), **command_pages(), **rpc_pages(), **python_pages(), **shared})
