"""Tiny Shakespeare, character by character."""
