"""Operating the project: the services behind `make up`, and what a run needs to work beside others. Prefect is not imported here."""
