"""Prefect only: what runs when, and in which order. The work itself is in `dvc.yaml` and `pllava`.

Importing this package settles Prefect's environment, which Prefect reads once, when it is imported. A value that is set already wins.
"""

import os
from pathlib import Path

from pllava.services.stack import QUIET

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = QUIET | {"PREFECT_HOME": str(ROOT / ".state" / "prefect")}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder of the path only
