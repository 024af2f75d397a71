"""One-shot serving: a whole sequence in, one answer out, many requests per run."""
