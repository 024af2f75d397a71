"""A tokenizer with one token per character, so that text is restored exactly.

    split     after every character, including white space and newlines
    decode    tokens are joined without separator

Id 0 is a character that is not in the training text; the others follow in order.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

UNKNOWN, UNKNOWN_ID = "[UNK]", 0


def character_tokenizer(text: str) -> Tokenizer:
    """A tokenizer of the characters in `text`."""
    characters = sorted(set(text))
    vocabulary = {UNKNOWN: UNKNOWN_ID} | {character: 1 + at for at, character in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
