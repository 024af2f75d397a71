"""Sentence lengths of real text, drawn with a seed."""

from __future__ import annotations

import json
import random
from pathlib import Path

_FILE = Path(__file__).with_name("sst2_lengths.json")


def sst2(count: int, seed: int = 0) -> list[int]:
    """`count` lengths in tokens, distributed as in SST-2's test sentences."""
    counted = json.loads(_FILE.read_text())["sentences"]
    return random.Random(seed).choices([int(length) for length in counted], list(counted.values()), k=count)
