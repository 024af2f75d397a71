"""A few dozen plain sentences that a proof translates: made up here, so that none need be at hand."""

from itertools import product

WHO = ("A man in a red shirt", "Two young women", "A small brown dog", "Several children")
DOES = ("is sitting", "are playing the guitar", "runs quickly")
WHERE = ("in front of a large building.", "on the beach", "while a crowd watches; nobody cares!")


def sentences() -> list[str]:
    """Every who with every does and where: 36 of them, of unequal length."""
    return [" ".join(parts) for parts in product(WHO, DOES, WHERE)]
