"""Language models: a text in, what may follow it out. What they learn from lies in `plays` and `captions`."""
