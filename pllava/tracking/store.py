"""The MLflow store: a sqlite file in `.state/mlflow` next to params.yaml, or MLFLOW_TRACKING_URI.

Several processes that open a new sqlite file at once damage it. So the file is migrated once, under a lock, before a process opens it.
The migration works on a copy, because SQLite does not roll back the steps of a killed migration.
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
from pllava.core.files import state_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW_HOME = Path(".state/mlflow")
LONGEST_PATH = 440  # bytes of the file; SQLite's limit is 512, and the copy that is migrated has a longer path
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's page opens on runs and curves; without it, on traces of GenAI
CAUSE = re.compile(r"[\w.]+(Error|Exception): .")
# SQLite's errors when a migration step was killed halfway: its tables exist, but the recorded version is the one before it.
HALF_MIGRATED = re.compile(r"already exists|duplicate column name|no such (table|column|index)", re.I)


def project_root() -> Path:
    """The nearest folder that holds params.yaml: the current one or one above it; else the current one."""
    current = Path.cwd()
    return next((folder for folder in (current, *current.parents) if (folder / "params.yaml").is_file()), current)


def require_records() -> None:
    """Raises PllavaError where there is no project, no store and no MLFLOW_TRACKING_URI, so that a reading command makes no store."""
    root = project_root()
    if "MLFLOW_TRACKING_URI" not in os.environ and not any((root / file).exists() for file in ("params.yaml", MLFLOW_HOME)):
        raise PllavaError(f"{root} is in no project, and models:/ needs one. Go to its folder, or make one: pllava init FOLDER")


def setup() -> str:
    """Make the store usable and return its URI. Raises PllavaError when it cannot be reached."""
    # mlflow reads these once, at import. They switch telemetry off, and end calls to a server that does not answer in seconds, not minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    file = str(project_root() / MLFLOW_HOME / "mlflow.db")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{file}"
    if uri == f"sqlite:///{file}" and ("?" in file or unquote(file) != file):
        raise PllavaError(f"{file}: an address of a database cannot have ? or %20 in it. Move the project to a folder without")
    if len(os.fsencode(file)) > LONGEST_PATH and uri == f"sqlite:///{file}":
        raise PllavaError(
            f"{file}: SQLite opens no path of more than {LONGEST_PATH} bytes. Move the project to a folder with a shorter one"
        )
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        state_folder(Path(file).parent)
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

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # mlflow.set_tracking_uri would write MLFLOW_TRACKING_URI into the environment: a process that changes to another project would still
    # use the store of the first one.
    try:
        connection = mlflow.MlflowClient(uri, uri)
        connection.search_experiments(max_results=1)
    except Exception as error:  # of mlflow, of SQLAlchemy, of an address that is none, or of a database's missing driver
        raise PllavaError(f"MLflow at {uri} does not answer: {error}\nUnset MLFLOW_TRACKING_URI to use the project's own store") from None
    return connection


def experiment_id(connection: MlflowClient, name: str) -> str:
    """The id of an experiment, which is created when it does not exist. Its artifact location is an absolute path."""
    from mlflow.exceptions import MlflowException

    if experiment := connection.get_experiment_by_name(name):
        for key, value in KIND.items():
            if key not in experiment.tags:  # made before
                connection.set_experiment_tag(experiment.experiment_id, key, value)
        return experiment.experiment_id
    local = connection.tracking_uri.startswith("sqlite:///")
    location = (Path(connection.tracking_uri.removeprefix("sqlite:///")).parent / "artifacts" / name).as_uri() if local else None
    with suppress(MlflowException):  # another process has created it meanwhile
        return connection.create_experiment(name, artifact_location=location, tags=KIND)
    experiment = connection.get_experiment_by_name(name)
    if experiment is None:
        raise PllavaError(f"experiment {name!r} could not be made in {connection.tracking_uri}")
    return experiment.experiment_id


def migrate(uri: str) -> None:
    """Migrate a sqlite file to the tables of the installed mlflow. A marker file beside it names the version of mlflow that migrated it.

    A copy is migrated, then renamed to the file: a kill at any moment leaves the file as it was.
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
        for abandoned in database.parent.glob(f".{database.name}.migrating-*"):  # of a killed process
            shutil.rmtree(abandoned, ignore_errors=True)
        with TemporaryDirectory(prefix=f".{database.name}.migrating-", dir=database.parent) as folder:
            _replace(database, Path(folder))
        marker.touch()


def _replace(database: Path, folder: Path) -> None:
    """Replace the file by a migrated copy. A half-migrated file is renamed, and an empty store takes its name."""
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
    if not reason and not database.exists():
        copy.chmod(0o600)
    if reason:
        raise PllavaError(f"{database} could not be migrated, and is as it was: {reason}\nNext: mend the cause, then the same command")
    copy.replace(database)


def _copy(database: Path, copy: Path) -> None:
    """Copy all committed data, including data in side files (-wal, -journal). Remove the side files, which would not fit the new file."""
    try:
        with closing(sqlite3.connect(database, timeout=30)) as source, closing(sqlite3.connect(copy)) as target:
            source.execute("PRAGMA journal_mode=DELETE")  # with a -wal file, this needs exclusive access
            source.backup(target)
    except sqlite3.Error as error:
        raise PllavaError(
            f"{database} cannot be read: {error}. If another program has it open, end that one (make down); if it is no database of "
            "MLflow's, move it away"
        ) from None
    shutil.copymode(database, copy)


def _upgrade(database: Path) -> str:
    """Run `mlflow db upgrade`; returns why it failed, from its traceback, or "" when it succeeded."""
    # standalone_mode=False: click then shows the traceback.
    code = "import sys; from mlflow.cli import cli; cli(['db', 'upgrade', sys.argv[1]], standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", code, f"sqlite:///{database}"], capture_output=True, text=True)
    if not done.returncode:
        return ""
    causes = [line for line in done.stderr.splitlines() if CAUSE.match(line)]
    return causes[0] if causes else done.stderr[-500:] or f"mlflow db upgrade ended with exit code {done.returncode}"
