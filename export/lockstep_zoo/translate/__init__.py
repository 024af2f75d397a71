"""Translators: a sentence in one language in, its translation out."""
