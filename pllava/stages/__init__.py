"""The stages of dvc.yaml: one package is one stage and one command."""
