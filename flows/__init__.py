"""Prefect only: what runs when, and in which order. The work itself is in `dvc.yaml` and `pllava`.

Importing this package settles Prefect's environment, which Prefect reads once, when it is imported. A value that is set already wins.
"""

import os
import secrets
from pathlib import Path

from pllava.services.stack import QUIET, login_environment, recorded

ROOT = Path(__file__).resolve().parent.parent


def _login() -> dict[str, str]:
    """For the services of `make up` theirs; for a server that a flow starts for itself one of this process; for another server none."""
    if not (url := os.environ.get("PREFECT_API_URL")):
        return login_environment(f"pllava:{secrets.token_urlsafe(32)}")
    stack = recorded(ROOT)
    return stack.login() if stack is not None and url.rstrip("/") == f"{stack.prefect_url}/api" else {}


ENVIRONMENT = QUIET | {"PREFECT_HOME": str(ROOT / ".state" / "prefect")} | _login()
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder of the path only
