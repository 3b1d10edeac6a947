"""Corpora of the project: add, check, list, remove. The commands edit params.yaml and track data with DVC."""
