"""Tokenizer and detokenizer. Either process may use them."""
