"""Tokenizers: text to ids and tokens, with Hugging Face's `tokenizer.json`.

A tokenizer is configured once, when it is opened: changing it while another thread encodes raises "Already
borrowed". Encoding changes nothing, so all threads share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Encoding


class TokenPlace(NamedTuple):
    """The place of a token in its text: indices of code points, without white space around the token."""

    token: int  # index of the token among all, special tokens included
    start: int
    end: int
    begins_word: bool
    is_blank: bool = False  # the token is white space only


class EncodedText(NamedTuple):
    ids: list[int]
    vocabulary: Vocabulary
    places: list[TokenPlace] | None = None  # of all tokens but special ones, if they were asked for

    @property
    def tokens(self) -> list[str]:
        """The token of each id. Computed when it is asked for, which few requests do."""
        return self.vocabulary.names(self.ids)


class TokenizerError(Exception):
    """The content is not a tokenizer, or a text cannot be tokenized."""


class Vocabulary:
    """An open tokenizer, without the padding and truncation that its file may set.

    Args:
        content: the content of a `tokenizer.json`.

    Raises:
        TokenizerError: the content is not a Hugging Face tokenizer.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        try:
            self.tokenizer = Tokenizer.from_buffer(content)
        except BaseException as error:  # the library's panics are no `Exception`
            raise _tokenizer_error(error) from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.size: int = self.tokenizer.get_vocab_size()

    def encode(self, text: str, *, places: bool = False) -> EncodedText:
        """
        Args:
            places: also compute the places of the tokens.

        Raises:
            TokenizerError: the library cannot tokenize this text.
        """
        try:
            if places:
                encoding = self.tokenizer.encode_batch([text])[0]
                return EncodedText(encoding.ids, self, _places(text, encoding))
            # Unlike `encode`, this releases the interpreter lock, and computes no offsets and tokens.
            encoding = self.tokenizer.encode_batch_fast([text])[0]
        except BaseException as error:
            raise _tokenizer_error(error) from error
        return EncodedText(encoding.ids, self)

    @property
    def largest_id(self) -> int:
        """Ids may have gaps. -1 without a token."""
        return max(self.tokenizer.get_vocab().values(), default=-1)

    def pieces(self) -> tuple[str, ...]:
        """The text that each id adds to the text of ids before it, by id; "" of special tokens."""
        ids = range(self.largest_id + 1)
        decode = self.tokenizer.decode
        before = next((one for one in ids if decode([one]).strip()), 0)  # after it, a space in front is kept
        return tuple(decode([before, one]).removeprefix(decode([before])) for one in ids)

    def names(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids; "" for an unknown id."""
        return [self.tokenizer.id_to_token(id) or "" for id in ids]  # noqa: A001


def _places(text: str, encoding: Encoding) -> list[TokenPlace]:
    """The places of all tokens that cover a part of the text.

    A token begins a word if the tokenizer says so, or if white space separates it from the token before: some
    tokenizers take a whole text as one word.
    """
    places: list[TokenPlace] = []
    last_word, last_end = None, 0
    columns = zip(encoding.offsets, encoding.word_ids, encoding.special_tokens_mask, strict=True)
    for token, ((start, end), word, is_special) in enumerate(columns):
        if is_special or start >= end:
            continue
        part = text[start:end]
        stripped = part.strip()
        first = start + len(part) - len(part.lstrip()) if stripped else start
        is_separate = first > start or any(map(str.isspace, text[last_end:first]))
        begins_word = not places or word != last_word or is_separate or places[-1].is_blank or not stripped
        end = first + len(stripped) if stripped else end
        places.append(TokenPlace(token, first, end, begins_word, not stripped))
        last_word, last_end = word, max(last_end, end)
    return places


def _tokenizer_error(error: BaseException) -> TokenizerError:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return TokenizerError(str(error))
