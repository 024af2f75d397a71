"""Step-wise serving: sequences that decode in lockstep and join or leave between any two steps."""
