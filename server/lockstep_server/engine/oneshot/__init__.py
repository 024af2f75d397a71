"""One-shot serving: the whole sequence in, one answer out, many requests in one run."""
