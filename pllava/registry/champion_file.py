"""The champion as the last promotion recorded it, .state/champion.json: found without importing mlflow, which takes seconds.

The file counts only while the registry's own rows say the same: they are read from the sqlite file, read-only. A champion made in MLflow's
pages, another source or another hash, and the file is not used. For a tracking server or another database there is no file.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pllava.core.files import read_json, write_json
from pllava.model.sources import LocalModel
from pllava.registry.versions import CHAMPION
from pllava.tracking.store import MLFLOW_HOME, project_root

FILE = Path(".state/champion.json")
ROWS = """
SELECT alias.version, model.source, model.storage_location, tag.key, tag.value
FROM registered_model_aliases AS alias
JOIN model_versions AS model ON model.name = alias.name AND model.version = alias.version
LEFT JOIN model_version_tags AS tag
  ON tag.name = alias.name AND tag.version = alias.version AND tag.key IN ('adapter_sha256', 'lora_alpha')
WHERE alias.name = ? AND alias.alias = ? AND model.current_stage != 'Deleted_Internal'
ORDER BY tag.key
"""


def read(name: str) -> tuple[LocalModel, str] | None:
    """(the recorded champion of `name`, its adapter_sha256); None without a record, or when the registry says otherwise."""
    file = project_root() / FILE
    if not file.is_file():
        return None
    try:
        record = read_json(file)
        if record["name"] != name or record["rows"] != _rows(name):
            return None
        return LocalModel(**record["model"] | {"folder": Path(record["model"]["folder"])}), record["adapter_sha256"]
    except (KeyError, TypeError, ValueError, OSError):  # of another version of this project
        return None


def write(name: str, model: LocalModel, adapter_sha256: str) -> None:
    """Record the champion, as it was resolved and checked. Another champion by now: the record goes."""
    file, rows = project_root() / FILE, _rows(name)
    if not is_possible():
        return  # a server is asked every time; the record of the project's own registry stays
    if rows and rows[0][0] == model.version:
        folder = str(model.folder.absolute())
        write_json(file, {"name": name, "adapter_sha256": adapter_sha256, "rows": rows, "model": asdict(model) | {"folder": folder}})
    else:
        file.unlink(missing_ok=True)


def is_possible() -> bool:
    """Whether the registry is a sqlite file."""
    return _database() is not None


def _database() -> Path | None:
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / MLFLOW_HOME / 'mlflow.db'}"
    return Path(address.removeprefix("sqlite:///")).resolve() if address.startswith("sqlite:///") and "?" not in address else None


def _rows(name: str) -> list[list[Any]] | None:
    """What the registry says of the champion: version, source and identity; None where it is no readable sqlite file."""
    if (database := _database()) is None:
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=5)) as connection:
            return [list(row) for row in connection.execute(ROWS, (name, CHAMPION))]
    except sqlite3.Error:
        return None
