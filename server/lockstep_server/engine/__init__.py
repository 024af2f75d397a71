"""The engine: the only package that runs models. It imports neither gRPC nor asyncio.

messages → models.py routes them → oneshot/ or stepwise/ plans, runs and commits → `EngineUpdate`s
"""
