"""Lockstep beside the servers that people would use instead: same machine, same files, same lengths."""
