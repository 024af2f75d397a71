r"""One tokenizer for all sentiment models: raw text in, word piece ids out.

SST-2 uses Penn Treebank tokens ("ca n't", "it 's", "-lrb-", "`` good ''"); users write "can't", "it's", "("
and '"'. Both give the same pieces:

    normalise   no accents, lower case, typographic and Treebank signs to plain ones,
                a hyphen inside a word to a space, every other run of dashes to "--"
    split       contractions ("ca" + "n't", "it" + "'s"), words, "...", single punctuation marks
    pieces      8,000 WordPiece tokens, trained on the training part only

Id 0 is padding and id 1 an unknown word. There are no special tokens, and neither padding nor truncation is
configured: the server's batcher does both.
"""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

PAD, UNKNOWN = "[PAD]", "[UNK]"
PAD_ID, UNKNOWN_ID = 0, 1
VOCABULARY = 8_000

PLAIN_SIGNS = (
    (r"[‘’´]", "'"),
    (r"``|''|[“”«»]", '"'),
    (r"`", "'"),
    (r"-lrb-", "("),
    (r"-rrb-", ")"),
    (r"\\(?=[/*])", ""),
    (r"…", "..."),
    (r"(?<=\w)[-‐‑](?=\w)", " "),
    (r"[-‐‑–—]+", "--"),
    (r"\bcannot\b", "can not"),
    (r"\bgonna\b", "gon na"),
)
PIECE_OF_TEXT = r"n't(?!\w)|'(?:s|re|ve|ll|d|m)(?!\w)|\w+?(?=n't(?!\w))|\w+|\.\.+|--|[^\w\s]"


def train_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Trains at most `vocabulary` pieces on `texts`; equal texts give equal tokenizers."""
    learner = _splitter(models.WordPiece(unk_token=UNKNOWN))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, UNKNOWN, *_inner_letters(learner, texts)],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return _splitter(models.WordPiece(learner.get_vocab(), unk_token=UNKNOWN))


def encode(tokenizer: Tokenizer, texts: list[str], max_words: int) -> list[list[int]]:
    """The ids of each text, cut at `max_words`; a text without words becomes one unknown word."""
    return [encoding.ids[:max_words] or [UNKNOWN_ID] for encoding in tokenizer.encode_batch(texts)]


def _splitter(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE_OF_TEXT), behavior="removed", invert=True)
    return tokenizer


def _inner_letters(splitter: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The pieces of one letter inside a word, in order.

    The trainer numbers them in the order of a hash map and breaks ties by number, so that two trainings would
    differ. Passing them as special tokens fixes their numbers.
    """
    letters = {letter for text in texts for word in _words(splitter, text) for letter in word[1:]}
    return [f"##{letter}" for letter in sorted(letters)]


def _words(splitter: Tokenizer, text: str) -> list[str]:
    assert splitter.normalizer is not None
    assert splitter.pre_tokenizer is not None
    plain = splitter.normalizer.normalize_str(text)
    return [word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(plain)]


def _normalizer() -> normalizers.Normalizer:
    plain_letters = (normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase())
    steps: list[normalizers.Normalizer] = [
        *plain_letters,
        *(normalizers.Replace(Regex(pattern), plain) for pattern, plain in PLAIN_SIGNS),
    ]
    return normalizers.Sequence(steps)
