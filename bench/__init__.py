"""Benchmarks: each result is the ratio of two measurements made in one run on one machine."""
