"""Language models: a text in, its continuation out. Their data is in `shakespeare` and `captions`."""
