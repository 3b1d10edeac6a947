"""Operate the project: the services of `make up`, the deployment of the demo, `init` and `doctor`. Only servers.py imports Prefect."""
