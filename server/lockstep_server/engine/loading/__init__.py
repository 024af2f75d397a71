"""Loads model versions from the repository: read the manifest, open the graphs, self-test, measure."""
