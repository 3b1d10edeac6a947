"""Runs in MLflow: params, curves, provenance, and the buffer for when MLflow is away."""
