"""Tokenizers: text to ids and tokens, with Hugging Face's `tokenizer.json`.

A tokenizer is configured once, when it is opened: changing it while another thread encodes raises "Already
borrowed". Encoding changes nothing, so all threads share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable


class EncodedText(NamedTuple):
    ids: list[int]
    vocabulary: Vocabulary

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

    def encode(self, text: str) -> EncodedText:
        """
        Raises:
            TokenizerError: the library cannot tokenize this text.
        """
        try:
            # Unlike `encode`, this releases the interpreter lock, and computes no offsets and tokens.
            encoding = self.tokenizer.encode_batch_fast([text])[0]
        except BaseException as error:
            raise _tokenizer_error(error) from error
        return EncodedText(encoding.ids, self)

    @property
    def largest_id(self) -> int:
        """Ids may have gaps. -1 without a token."""
        return max(self.tokenizer.get_vocab().values(), default=-1)

    def names(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids; "" for an unknown id."""
        return [self.tokenizer.id_to_token(id) or "" for id in ids]  # noqa: A001


def _tokenizer_error(error: BaseException) -> TokenizerError:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return TokenizerError(str(error))
