"""Corpora of the project: add, check, list, remove. Edits params.yaml and tracks data with DVC."""
