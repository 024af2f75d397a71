"""The verbs of the `lockstep` command. Slow imports happen inside the verbs, so --help stays fast."""
