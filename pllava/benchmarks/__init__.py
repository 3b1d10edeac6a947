"""Benchmarks: layouts, samples, prompts and scores."""
