r"""A tokenizer with one token per word; a token includes the space before its word, so that text is restored.

    normalise   composed accents, plain apostrophes, lower case, one space at the start and none before a stop
    split       words and signs, each with the space before it: " a", " man", "'", "s", " hat", "."
    vocabulary  the most frequent words of the training part; all others are the unknown word
    decode      tokens are joined without separator: the continuation of a prompt begins with its space

Id 0 is the unknown word; id 1 ends a caption, and begins it if there is no prompt.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPECIAL = ("[UNK]", "[END]")
UNKNOWN_ID, END_ID = range(len(SPECIAL))
VOCABULARY = 4_000
WORD = r" ?\w+| ?[^\w\s]"


def word_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A tokenizer of at most `vocabulary` words; equal texts give equal tokenizers."""
    counts = Counter(_words(_splitter({}), texts))
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - len(SPECIAL)]
    return _splitter({word: len(SPECIAL) + at for at, word in enumerate(kept)})


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text; an empty text becomes one unknown word."""
    return [encoding.ids or [UNKNOWN_ID] for encoding in tokenizer.encode_batch(list(texts))]


def _splitter(words: dict[str, int]) -> Tokenizer:
    special = {word: at for at, word in enumerate(SPECIAL)}
    tokenizer = Tokenizer(models.WordLevel(special | words, unk_token=SPECIAL[UNKNOWN_ID]))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex("[‘’´`]"), "'"),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(" "),
            normalizers.Replace(Regex(r" (?=[.,;:!?'])"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _words(splitter: Tokenizer, texts: Sequence[str]) -> Iterator[str]:
    assert splitter.normalizer is not None
    assert splitter.pre_tokenizer is not None
    for text in texts:
        plain = splitter.normalizer.normalize_str(text)
        yield from (word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(plain))
