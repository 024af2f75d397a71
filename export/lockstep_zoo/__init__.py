"""The shipped models: their definitions, data, training, export and measurement.

data → tokenizers and batches (the tasks in `classify`, `language`, `shakespeare`, `captions`, `translate`)
→ train.py → pipeline.py exports and compares → models/<name>/, its model card, the tables of models/README.md
"""
