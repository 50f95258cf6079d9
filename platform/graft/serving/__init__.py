"""Serving: a model version as tensors (predictor), as an ASGI app, and on Ray Serve."""
