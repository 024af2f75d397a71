r"""One token for each word, and readable text back: a word's token begins with the space before it.

    normalise   composed accents, plain apostrophes, lower case, one space in front and none before a stop
    split       words and signs, each with the space before it: " a", " man", "'", "s", " hat", "."
    vocabulary  the most frequent of the training part; every other word is the unknown one
    decode      the tokens joined with nothing between them: what goes on from a prompt begins with its space

Id 0 is an unknown word and id 1 what ends a caption, and begins one where there is no prompt.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPECIAL = ("[UNK]", "[END]")
UNKNOWN_ID, END_ID = range(len(SPECIAL))
VOCABULARY = 4_000
WORD = r" ?\w+| ?[^\w\s]"


def word_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """The tokenizer of at most `vocabulary` words; the same texts give the same one."""
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
