"""The models that ship: their definitions, their data, and how they are trained, exported and measured.

data → tokenizers and batches (a task of `classify`, `language`, `shakespeare`, `captions`, `translate`)
→ train.py → pipeline.py exports and proves → models/<name>/, its card, and the tables of models/README.md
"""
