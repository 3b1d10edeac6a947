"""Where MLflow keeps its records: a sqlite file in `.state/mlflow` next to params.yaml, or MLFLOW_TRACKING_URI.

Several processes that open a fresh sqlite file at once break it for good, so it is migrated once, under a lock, before anyone opens it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW_HOME = Path(".state/mlflow")


def project_root() -> Path:
    """The nearest folder, from here upwards, that holds params.yaml; else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)


def require_records() -> None:
    """Raises PllavaError where neither a project nor records nor MLFLOW_TRACKING_URI are: whoever only reads leaves no store behind."""
    root = project_root()
    if "MLFLOW_TRACKING_URI" not in os.environ and not any((root / file).exists() for file in ("params.yaml", MLFLOW_HOME)):
        raise PllavaError(f"{root} is in no project, and models:/ needs one. Go to its folder, or make one: pllava init FOLDER")


def setup() -> str:
    """Make the store usable and return its URI. Raises PllavaError when it cannot be reached."""
    # Read once, when mlflow is imported: no telemetry, and a server that is away is given up on in seconds, not minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    file = str(project_root() / MLFLOW_HOME / "mlflow.db")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{file}"
    if uri == f"sqlite:///{file}" and ("?" in file or unquote(file) != file):
        raise PllavaError(f"{file}: an address of a database cannot have ? or %20 in it. Move the project to a folder without")
    if uri.startswith("sqlite:///"):
        _migrate(uri)
    return uri


def client() -> MlflowClient:
    """A client of the store. Raises PllavaError when it cannot be reached."""
    return _client(setup())


@cache
def _client(uri: str) -> MlflowClient:
    import logging

    import mlflow
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # Not mlflow.set_tracking_uri: it writes MLFLOW_TRACKING_URI into the environment, and a process that goes on to another project would
    # keep to the first one's records.
    connection = mlflow.MlflowClient(uri, uri)
    try:
        connection.search_experiments(max_results=1)
    except MlflowException as error:
        raise PllavaError(f"MLflow at {uri} does not answer: {error}\nUnset MLFLOW_TRACKING_URI to use the project's own store") from None
    return connection


def experiment_id(connection: MlflowClient, name: str) -> str:
    """The experiment's id; it is made when it is not there. Its artifacts have an absolute place, whatever folder we run in."""
    from mlflow.exceptions import MlflowException

    if found := connection.get_experiment_by_name(name):
        return found.experiment_id
    local = connection.tracking_uri.startswith("sqlite:///")
    place = (Path(connection.tracking_uri.removeprefix("sqlite:///")).parent / "artifacts" / name).as_uri() if local else None
    with suppress(MlflowException):  # another process was faster
        return connection.create_experiment(name, artifact_location=place)
    found = connection.get_experiment_by_name(name)
    if found is None:
        raise PllavaError(f"experiment {name!r} could not be made in {connection.tracking_uri}")
    return found.experiment_id


def _migrate(uri: str) -> None:
    """Bring the tables to what this mlflow expects; a marker beside the file says which version did."""
    from importlib.metadata import version

    from filelock import FileLock

    database = Path(uri.removeprefix("sqlite:///"))
    marker = database.with_name(f".{database.name}.{version('mlflow')}")
    if marker.exists() and database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if marker.exists() and database.exists():
            return
        done = subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", uri], capture_output=True, text=True)
        if done.returncode:
            raise PllavaError(f"{database} could not be migrated to mlflow {version('mlflow')}:\n{done.stderr[-2000:]}")
        marker.touch()
