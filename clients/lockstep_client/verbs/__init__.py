"""The verbs of the `lockstep` command. Each imports what takes time when it is called."""
