"""Sentiment classifiers: one sentence in, negative or positive out."""
