"""What several integration tests need once a session."""

import os
import subprocess
import sys
import threading

import pytest

import flows  # noqa: F401  settles Prefect's environment before Prefect reads it
from pllava.tracking import store

# Prefect leaves a service to be drained when Python ends. A decoding worker, forked after it was used here, has none and would fail
# on its way out; for users training and encoding have a process of their own, without Prefect.
os.register_at_fork(after_in_child=threading._threading_atexits.clear)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """A migrated MLflow home to copy: migrating costs ten seconds, copying none."""
    root = tmp_path_factory.mktemp("mlflow-template")
    subprocess.run([sys.executable, "-c", "from pllava.registry import store; store.setup()"], cwd=root, check=True)
    return root / store.MLFLOW_HOME


@pytest.fixture(scope="session")
def prefect_server():
    """One Prefect API for the session; starting it costs ten seconds."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield
