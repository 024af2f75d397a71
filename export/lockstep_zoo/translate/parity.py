"""Proves a translator's graphs, with ragged sources, several batch sizes and extra padding.

    prefill     what a source leaves, in company and padded, against the module alone with it
    step        logits, attention and states after every piece of a forced target, against the module alone
    padding     the memory of padding, and the attention that lies on it: exactly zero
    rows        any number of rows of one step, against the same rows among 64, padded alike: bit for bit
    length      the same steps over memory that is padded further, by fours: bit for bit
    greedy      whole translations of plain sentences, piece by piece the same as PyTorch's

Without a module the graphs are held against themselves, one source alone.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.parity import EXACT, Difference, failed_run, gaps
from lockstep_export.ragged import padded, real
from lockstep_zoo.recipe import TranslatorRecipe
from lockstep_zoo.translate.greedy import Exported, Translates, translate
from lockstep_zoo.translate.tokenizer import BEGIN_ID, SPECIAL

PREFILL, STEP = "prefill.onnx", "step.onnx"
BATCHES = (1, 2, 3, 8, 17)
EXTRA_PADDING = (0, 5)
TYPICAL_SOURCE, LONG_SOURCE, STEPS = 25, 120, 30
COMPANY = (1, 2, 3, 4, 7, 8, 16, 31, 32, 63)  # rows that are compared with the same among MOST
MOST = 64

Rows = Sequence[Sequence[int]]
Found = Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def check(
    recipe: TranslatorRecipe,
    vocabularies: tuple[int, int],
    exported: Exported,
    module: nn.Module | None = None,
    texts: Rows = (),
) -> list[Difference]:
    """All comparisons; without a module the graphs are held against themselves, one source alone."""
    alone = exported if module is None else cast("Translates", module)
    differences = [*check_rows(vocabularies, exported), *check_lengths(vocabularies, exported)]
    for rows in sources(vocabularies[0]):
        for extra in EXTRA_PADDING:
            try:
                differences += _walk(vocabularies[1], exported, alone, rows, extra)
            except Exception as error:
                differences.append(failed_run(len(rows), error))
    return differences + _greedy(recipe, exported, alone, texts)


def sources(vocabulary: int, seed: int = 7) -> Iterator[list[list[int]]]:
    """Made-up ids of real pieces: one batch of each size, the largest with one long source in it."""
    chance = random.Random(seed)
    for rows in BATCHES:
        lengths = [chance.randint(1, TYPICAL_SOURCE) for _ in range(rows)]
        if rows == BATCHES[-1]:
            lengths[rows // 2] = LONG_SOURCE
        yield [[chance.randrange(len(SPECIAL), vocabulary) for _ in range(length)] for length in lengths]


def check_rows(vocabularies: tuple[int, int], exported: Exported) -> list[Difference]:
    """One step of the first so many rows, against the same rows of one step of 64."""
    token, h, c, keys, memory, mask = _company(vocabularies, exported, TYPICAL_SOURCE)
    whole = exported.step(token, h, c, keys, memory, mask)
    differences = []
    for n in COMPANY:
        part = exported.step(token[:n], h[:, :n], c[:, :n], keys[:n], memory[:n], mask[:n])
        differences += gaps("rows", n, _named(part, tuple(_first(tensor, n) for tensor in whole)), EXACT)
    return differences


def check_lengths(vocabularies: tuple[int, int], exported: Exported) -> list[Difference]:
    """One step of the same rows over memory of several lengths, all of them multiples of four.

    A product over another number of places sums in another order, unless that number divides by four.
    """
    shortest, *longer = (
        exported.step(*_company(vocabularies, exported, length))
        for length in (TYPICAL_SOURCE + 3, 2 * TYPICAL_SOURCE + 2, LONG_SOURCE)
    )
    differences = []
    for given in longer:
        given = (given[0], given[1][:, : shortest[1].shape[1]], *given[2:])
        differences += gaps("length", MOST, _named(given, shortest), EXACT)
    return differences


def _company(
    vocabularies: tuple[int, int], exported: Exported, length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What a first step of 64 rows takes, their sources padded to `length`."""
    chance = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, TYPICAL_SOURCE, (MOST,), generator=chance)
    token = torch.randint(vocabularies[1], (MOST,), generator=chance)
    source = torch.randint(len(SPECIAL), vocabularies[0], (MOST, TYPICAL_SOURCE), generator=chance)
    mask = real(lengths, length)
    source = functional.pad(source, (0, length - TYPICAL_SOURCE)) * mask
    keys, memory, h, c = exported.encode(source, lengths)
    return token, h, c, keys, memory, mask


def _first(tensor: Tensor, rows: int) -> Tensor:
    return tensor[:, :rows] if tensor.dim() == 3 else tensor[:rows]  # states have their rows on axis 1


def _named(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Found:
    for name, one, other in zip(("logits", "attention", "h_out", "c_out"), found, expected, strict=True):
        yield name, one.numpy(), other.numpy()


@torch.no_grad()
def _walk(vocabulary: int, exported: Exported, alone: Translates, rows: Rows, extra: int) -> list[Difference]:
    source, lengths = padded(rows, extra)
    mask = real(lengths, source.shape[1])
    keys, memory, h, c = exported.encode(source, lengths)
    singles = [alone.encode(*padded([row])) for row in rows]
    together = (keys, memory, h, c)
    padding = [memory[~mask]]
    states = [(single[2], single[3]) for single in singles]
    pairs: list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for token in _forced(vocabulary, len(rows)):
        logits, attention, h, c = exported.step(token, h, c, keys, memory, mask)
        padding.append(attention[~mask])
        for index, row in enumerate(rows):
            expected = alone.step(token[index : index + 1], *states[index], *_memory(singles[index], row))
            states[index] = (expected[2], expected[3])
            one = slice(index, index + 1)
            mine = (logits[one], attention[one, : len(row)], h[:, one], c[:, one])
            pairs += _named(mine, expected)
    zeros = ((part.numpy(), np.zeros(part.shape)) for part in padding)
    return [
        *gaps("prefill", len(rows), _prefilled(rows, together, singles)),
        *gaps("step", len(rows), pairs),
        *gaps("padding", len(rows), (("all", found, expected) for found, expected in zeros), EXACT),
    ]


def _memory(encoded: Sequence[Tensor], row: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    return encoded[0], encoded[1], torch.ones(1, len(row), dtype=torch.bool)


def _forced(vocabulary: int, rows: int, seed: int = 11) -> Iterator[Tensor]:
    """The beginning, then pieces by chance: the same for every batch of `rows`."""
    chance = torch.Generator().manual_seed(seed)
    yield torch.full((rows,), BEGIN_ID)
    for _ in range(STEPS - 1):
        yield torch.randint(vocabulary, (rows,), generator=chance)


def _prefilled(rows: Rows, together: Sequence[Tensor], singles: Sequence[Sequence[Tensor]]) -> Found:
    for index, row in enumerate(rows):
        keys, memory, h, c = singles[index]
        yield "keys", together[0][index, : len(row)].numpy(), keys[0].numpy()
        yield "memory", together[1][index, : len(row)].numpy(), memory[0].numpy()
        yield "h0", together[2][:, index].numpy(), h[:, 0].numpy()
        yield "c0", together[3][:, index].numpy(), c[:, 0].numpy()


def _greedy(recipe: TranslatorRecipe, exported: Exported, alone: Translates, texts: Rows) -> list[Difference]:
    if not texts:
        return []
    found = translate(exported, texts, recipe.max_pieces)
    expected = translate(alone, texts, recipe.max_pieces)
    unlike = sum(one != other for one, other in zip(found, expected, strict=True))
    return [Difference("greedy", "pieces", len(texts), float(unlike), f"{unlike} differ", EXACT)]
