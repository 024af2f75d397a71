"""Sentence lengths of real text, drawn with a seed."""

from __future__ import annotations

import json
import random
from pathlib import Path

_FILE = Path(__file__).with_name("sst2_lengths.json")


def sst2(count: int, seed: int = 0) -> list[int]:
    """Draw `count` lengths in tokens, distributed as in SST-2's test sentences."""
    counted = json.loads(_FILE.read_text())["sentences"]
    return random.Random(seed).choices([int(length) for length in counted], list(counted.values()), k=count)


def multi30k(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Draw `count` pairs of source and target lengths, distributed as in Multi30k's test pairs."""
    pairs = json.loads(Path(__file__).with_name("multi30k_lengths.json").read_text())["pairs"]
    weights = [number for _, _, number in pairs]
    return random.Random(seed).choices([(source, target) for source, target, _ in pairs], weights, k=count)
