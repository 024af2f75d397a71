"""One token for each character, and the same text back.

    split     after every character, white space and newline included
    decode    the pieces joined with nothing between them

Id 0 is a character that the text does not hold; the others follow in order.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

UNKNOWN, UNKNOWN_ID = "[UNK]", 0


def character_tokenizer(text: str) -> Tokenizer:
    """The tokenizer of the characters in `text`."""
    characters = sorted(set(text))
    vocabulary = {UNKNOWN: UNKNOWN_ID} | {character: 1 + at for at, character in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
