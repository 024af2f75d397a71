"""The engine: the only folder that runs models. It imports neither gRPC nor asyncio.

messages in → models.py routes them → oneshot/ or stepwise/ plans, runs and commits → `Events` out
"""
