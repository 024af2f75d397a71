"""A subword tokenizer for each language: byte pair encoding over words and signs, with spaces in the tokens.

    normalise   composed accents, plain apostrophes, single spaces; the source also in lower case, so that the
                case of a request has no effect
    split       at spaces ("▁" marks one), after an elision's apostrophe ("▁l'" + "homme"), around signs
    tokens      4,000, trained on the training part only
    decode      tokens are joined, "▁" becomes a space

Ids 0 to 3 are padding, the unknown character, and the beginning and end of a translation.
"""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ("[PAD]", "[UNK]", "[BEGIN]", "[END]")
PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID = range(len(SPECIAL))
VOCABULARY = 4_000
PIECE = r"▁?\w+'?|▁?[^\w▁]|▁"


def train_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY, *, cased: bool = True) -> Tokenizer:
    """Trains at most `vocabulary` tokens on `texts`; equal texts give equal tokenizers."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN_ID]))
    tokenizer.normalizer = _normalizer(cased)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(PIECE), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[list[int]]:
    """The ids of each text, cut at `longest`; an empty text becomes one unknown token."""
    return [encoding.ids[:longest] or [UNKNOWN_ID] for encoding in tokenizer.encode_batch(texts)]


def decode(tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of each row of ids."""
    return [tokenizer.decode(list(row)) for row in rows]


def _normalizer(cased: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [
        normalizers.NFC(),
        normalizers.Replace(Regex("[‘’´`]"), "'"),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    return normalizers.Sequence(steps if cased else [*steps, normalizers.Lowercase()])
