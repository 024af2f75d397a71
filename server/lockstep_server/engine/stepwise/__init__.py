"""Step-wise serving: sequences that decode in lockstep, joining and leaving between any two steps."""
