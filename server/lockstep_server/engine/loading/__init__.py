"""From a folder of the repository to a model that is ready: find, read, open, self-test, measure."""
