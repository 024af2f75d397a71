"""Data about a model that both processes read: manifest, spec, request sizes and cost model."""
