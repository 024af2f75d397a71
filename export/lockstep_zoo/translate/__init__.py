"""Translators: a sentence in one language in, the same in another out."""
