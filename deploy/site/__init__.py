"""The documents as a site: `make docs`.

Markdown files of the project, with links that fit the site (pages.py), and pages made from code: commands
(commands.py), RPCs (protos.py), Python (python_api.py) → build/docs → MkDocs, with hooks.py → build/site.
"""
