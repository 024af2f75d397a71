"""The words of models/README.md; scores.py fills in the tables and counts."""

PAGE_TEXT = """# The shipped models

TODO
{classify}

{generate}
"""
