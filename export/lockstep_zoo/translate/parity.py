"""Compares a translator's graphs, with sources of different lengths, several batch sizes and padding.

    prefill     the results for a source, batched and padded, against the module unbatched
    step        logits, attention and states after each token of a given target, against the module
                unbatched
    padding     memory and attention in the padding: exactly zero
    rows        one step with any number of rows, against the same rows in a batch of 64: bit for bit
    length      the same steps with memory that is padded further, to multiples of four: bit for bit
    greedy      whole translations of sample sentences, token by token the same as PyTorch's

Without a module, the graphs are compared with themselves unbatched.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import product
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
ROW_COUNTS = (1, 2, 3, 4, 7, 8, 16, 31, 32, 63)  # compared with the same rows in a batch of MOST
MOST = 64

# Parts of sample sentences, so that the comparison of whole translations needs no data.
SUBJECTS = ("A man in a red shirt", "Two young women", "A small brown dog", "Several children")
PREDICATES = ("is sitting", "are playing the guitar", "runs quickly")
PLACES = ("in front of a large building.", "on the beach", "while a crowd watches; nobody cares!")

Rows = Sequence[Sequence[int]]
Found = Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def check(
    recipe: TranslatorRecipe,
    vocabularies: tuple[int, int],
    exported: Exported,
    module: nn.Module | None = None,
    texts: Rows = (),
) -> list[Difference]:
    """All comparisons; without a module, with the graphs themselves unbatched."""
    unbatched = exported if module is None else cast("Translates", module)
    differences = [*check_rows(vocabularies, exported), *check_lengths(vocabularies, exported)]
    for rows in sample_sources(vocabularies[0]):
        for extra in EXTRA_PADDING:
            try:
                differences += _compare_steps(vocabularies[1], exported, unbatched, rows, extra)
            except Exception as error:
                differences.append(failed_run(len(rows), error))
    return differences + _greedy(recipe, exported, unbatched, texts)


def sample_sources(vocabulary: int, seed: int = 7) -> Iterator[list[list[int]]]:
    """Random ids of ordinary tokens, one batch of each size; the largest has one long source."""
    rng = random.Random(seed)
    for rows in BATCHES:
        lengths = [rng.randint(1, TYPICAL_SOURCE) for _ in range(rows)]
        if rows == BATCHES[-1]:
            lengths[rows // 2] = LONG_SOURCE
        yield [[rng.randrange(len(SPECIAL), vocabulary) for _ in range(length)] for length in lengths]


def sample_sentences() -> list[str]:
    """All combinations of the parts: 36 sentences of different lengths."""
    return [" ".join(parts) for parts in product(SUBJECTS, PREDICATES, PLACES)]


def check_rows(vocabularies: tuple[int, int], exported: Exported) -> list[Difference]:
    """One step of the first rows of a batch, against the same rows of one step with all 64."""
    token, h, c, keys, memory, mask = _batch(vocabularies, exported, TYPICAL_SOURCE)
    whole = exported.step(token, h, c, keys, memory, mask)
    differences = []
    for n in ROW_COUNTS:
        part = exported.step(token[:n], h[:, :n], c[:, :n], keys[:n], memory[:n], mask[:n])
        differences += gaps("rows", n, _named(part, tuple(_first(tensor, n) for tensor in whole)), EXACT)
    return differences


def check_lengths(vocabularies: tuple[int, int], exported: Exported) -> list[Difference]:
    """One step of the same rows with memory of several lengths, all of them multiples of four.

    Products over other lengths are summed in another order.
    """
    shortest, *longer = (
        exported.step(*_batch(vocabularies, exported, length))
        for length in (TYPICAL_SOURCE + 3, 2 * TYPICAL_SOURCE + 2, LONG_SOURCE)
    )
    differences = []
    for given in longer:
        given = (given[0], given[1][:, : shortest[1].shape[1]], *given[2:])
        differences += gaps("length", MOST, _named(given, shortest), EXACT)
    return differences


def _batch(
    vocabularies: tuple[int, int], exported: Exported, length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inputs of a first step of 64 rows, with sources padded to `length`."""
    rng = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, TYPICAL_SOURCE, (MOST,), generator=rng)
    token = torch.randint(vocabularies[1], (MOST,), generator=rng)
    source = torch.randint(len(SPECIAL), vocabularies[0], (MOST, TYPICAL_SOURCE), generator=rng)
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
def _compare_steps(
    vocabulary: int, exported: Exported, unbatched: Translates, rows: Rows, extra: int
) -> list[Difference]:
    source, lengths = padded(rows, extra)
    mask = real(lengths, source.shape[1])
    keys, memory, h, c = exported.encode(source, lengths)
    singles = [unbatched.encode(*padded([row])) for row in rows]
    batched = (keys, memory, h, c)
    padding = [memory[~mask]]
    states = [(single[2], single[3]) for single in singles]
    pairs: list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for token in _forced(vocabulary, len(rows)):
        logits, attention, h, c = exported.step(token, h, c, keys, memory, mask)
        padding.append(attention[~mask])
        for index, row in enumerate(rows):
            expected = unbatched.step(token[index : index + 1], *states[index], *_memory(singles[index], row))
            states[index] = (expected[2], expected[3])
            one = slice(index, index + 1)
            found = (logits[one], attention[one, : len(row)], h[:, one], c[:, one])
            pairs += _named(found, expected)
    zeros = ((part.numpy(), np.zeros(part.shape)) for part in padding)
    return [
        *gaps("prefill", len(rows), _prefilled(rows, batched, singles)),
        *gaps("step", len(rows), pairs),
        *gaps("padding", len(rows), (("all", found, expected) for found, expected in zeros), EXACT),
    ]


def _memory(encoded: Sequence[Tensor], row: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    return encoded[0], encoded[1], torch.ones(1, len(row), dtype=torch.bool)


def _forced(vocabulary: int, rows: int, seed: int = 11) -> Iterator[Tensor]:
    """The begin token, then random tokens: the same for every batch of `rows`."""
    rng = torch.Generator().manual_seed(seed)
    yield torch.full((rows,), BEGIN_ID)
    for _ in range(STEPS - 1):
        yield torch.randint(vocabulary, (rows,), generator=rng)


def _prefilled(rows: Rows, batched: Sequence[Tensor], singles: Sequence[Sequence[Tensor]]) -> Found:
    for index, row in enumerate(rows):
        keys, memory, h, c = singles[index]
        yield "keys", batched[0][index, : len(row)].numpy(), keys[0].numpy()
        yield "memory", batched[1][index, : len(row)].numpy(), memory[0].numpy()
        yield "h0", batched[2][:, index].numpy(), h[:, 0].numpy()
        yield "c0", batched[3][:, index].numpy(), c[:, 0].numpy()


def _greedy(
    recipe: TranslatorRecipe, exported: Exported, unbatched: Translates, texts: Rows
) -> list[Difference]:
    if not texts:
        return []
    found = translate(exported, texts, recipe.max_target)
    expected = translate(unbatched, texts, recipe.max_target)
    different = sum(one != other for one, other in zip(found, expected, strict=True))
    return [Difference("greedy", "tokens", len(texts), float(different), f"{different} differ", EXACT)]
