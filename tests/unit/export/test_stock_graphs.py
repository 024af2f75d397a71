"""The graphs in tests/stock come from its make.py as it is, and stay small."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

STOCK = Path(__file__).parents[2] / "stock"
LARGEST = 2_000_000  # bytes, all together


def test_every_graph_was_made_by_the_script_as_it_is() -> None:
    made = json.loads((STOCK / "made.json").read_text())
    folders = {path.parent.name for path in STOCK.glob("*/expected.json")}
    assert made.keys() == folders
    digest = hashlib.sha256((STOCK / "make.py").read_bytes()).hexdigest()
    stale = [name for name, of in made.items() if of != digest]
    assert not stale, f"make.py has changed since it made {', '.join(stale)}; run it again, as it says"


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in STOCK.rglob("*") if file.is_file()) < LARGEST
