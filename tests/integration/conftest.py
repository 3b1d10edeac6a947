"""What several integration tests need once a session."""

import os
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

import flows  # noqa: F401  settles Prefect's environment before Prefect reads it
from pllava.tracking import store

# Prefect leaves a service to be drained when Python ends. A decoding worker, forked after it was used here, has none and would fail
# on its way out; for users training and encoding have a process of their own, without Prefect.
os.register_at_fork(after_in_child=threading._threading_atexits.clear)  # type: ignore[attr-defined]


# With two workers the longest file decides when all is done, unless it is among the first.
LONGEST_FIRST = ("test_stack", "test_several_processes", "test_killed_training", "test_data", "test_registry", "test_postgres")


def pytest_collection_modifyitems(items):
    def rank(item):
        return LONGEST_FIRST.index(item.path.stem) if item.path.stem in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """A migrated MLflow home to copy: migrating costs ten seconds, copying none. The workers of pytest-xdist share it."""
    folder = tmp_path_factory.getbasetemp()
    root = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "mlflow-template"
    with FileLock(f"{root}.lock"):
        if not (root / "done").exists():
            root.mkdir()
            subprocess.run([sys.executable, "-c", "from pllava.tracking import store; store.setup()"], cwd=root, check=True)
            (root / "done").touch()
    return root / store.MLFLOW_HOME


@pytest.fixture(scope="session")
def prefect_server():
    """One Prefect API for the session; starting it costs ten seconds."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield
