"""Language models: a text in, what follows it out, one character after the other."""
