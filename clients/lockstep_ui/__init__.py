"""`lockstep ui`: a page that shows what a server does.

Browser → guard.py, which refuses what other sites send → app.py: a route per view, which calls the server by
lockstep_client → JSON, or one JSON object per line as answers arrive → static/, the page: a module per view.
typing.py keeps a Follow stream in step with a text that is typed. The page gets no credentials: they stay in
this process.
"""
