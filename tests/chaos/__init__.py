"""Random calls and faults against a real server, and proof that every request ended once and rightly."""
