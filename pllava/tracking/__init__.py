"""Runs in MLflow: params, curves, provenance, and the buffer that keeps records while MLflow does not answer."""
