"""Models on disk and in memory: manifests, sessions, what runs cost, who may run, what is served."""
