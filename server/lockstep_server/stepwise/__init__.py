"""Step-wise serving: sequences that decode in lockstep. No engine yet; the port and the manifest know it."""
