"""Where MLflow keeps its records: a sqlite file in `.state/mlflow` next to params.yaml, or MLFLOW_TRACKING_URI.

Several processes that open a fresh sqlite file at once break it for good, so it is migrated once, under a lock, before anyone opens it; and
on a copy, since SQLite does not take back the steps of a migration that is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW_HOME = Path(".state/mlflow")
CAUSE = re.compile(r"[\w.]+(Error|Exception): .")
# What SQLite says to a step that has been done in part: a step's tables are there, and the version says they are not.
HALF_MIGRATED = re.compile(r"already exists|duplicate column name|no such (table|column|index)", re.I)


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
        migrate(uri)
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


def migrate(uri: str) -> None:
    """Bring the tables of a sqlite file to what this mlflow expects; a marker beside the file says which version did.

    A copy is migrated and takes the file's place when it is whole: a kill at any moment leaves the file as it was.
    """
    from importlib.metadata import version

    from filelock import FileLock

    name = uri.removeprefix("sqlite:///").partition("?")[0]
    if name in ("", ":memory:"):
        return
    database = Path(name).resolve()
    marker = database.with_name(f".{database.name}.{version('mlflow')}")
    if marker.exists() and database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if marker.exists() and database.exists():
            return
        for rest in database.parent.glob(f".{database.name}.migrating-*"):  # of a process that was killed
            shutil.rmtree(rest, ignore_errors=True)
        with TemporaryDirectory(prefix=f".{database.name}.migrating-", dir=database.parent) as folder:
            _replace(database, Path(folder))
        marker.touch()


def _replace(database: Path, folder: Path) -> None:
    """Put a migrated copy in the place of the file. What a kill left half-migrated is set aside, and a new store begins."""
    copy = folder / database.name
    if database.exists():
        _copy(database, copy)
    reason = _upgrade(copy)
    if reason and database.exists() and HALF_MIGRATED.search(reason):
        copy = folder / "new" / database.name
        copy.parent.mkdir()
        reason = _upgrade(copy)
        if not reason:
            aside = database.with_name(f"{database.name}.half-migrated-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
            print(f"{database} was half-migrated by a process that was killed: it is kept as {aside}, a new one begins", file=sys.stderr)
            database.rename(aside)
    if reason:
        raise PllavaError(f"{database} could not be migrated, and is as it was: {reason}\nNext: mend the cause, then the same command")
    copy.replace(database)


def _copy(database: Path, copy: Path) -> None:
    """All that was committed, also what is in side files (-wal, -journal); none of these stays beside the file, which they would spoil."""
    try:
        with closing(sqlite3.connect(database, timeout=30)) as source, closing(sqlite3.connect(copy)) as target:
            source.execute("PRAGMA journal_mode=DELETE")  # needs the file for itself where there is a -wal
            source.backup(target)
    except sqlite3.Error as error:
        raise PllavaError(
            f"{database} cannot be read: {error}. If another program has it open, end that one (make down); if it is no database of "
            "MLflow's, move it away"
        ) from None
    shutil.copymode(database, copy)


def _upgrade(database: Path) -> str:
    """`mlflow db upgrade`; why it failed, the last lines of its traceback, or nothing."""
    code = "import sys; from mlflow.cli import cli; cli(['db', 'upgrade', sys.argv[1]], standalone_mode=False)"  # tells the cause too
    done = subprocess.run([sys.executable, "-c", code, f"sqlite:///{database}"], capture_output=True, text=True)
    if not done.returncode:
        return ""
    causes = [line for line in done.stderr.splitlines() if CAUSE.match(line)]
    return causes[0] if causes else done.stderr[-500:] or f"mlflow db upgrade ended with exit code {done.returncode}"
