"""The Prefect flows. They decide the order of the work; the work itself is in `dvc.yaml` and `pllava`.

Importing this package sets Prefect's environment variables, which Prefect reads once, at its import. A variable that is set already stays.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from pllava.core.files import state_folder
from pllava.core.quiet import QUIET
from pllava.services.stack import login_environment, recorded

ROOT = Path(__file__).resolve().parent.parent


def _login() -> dict[str, str]:
    """Environment variables with Prefect's login.

    Without PREFECT_API_URL a new login; for the server of `make up` its recorded login; for any other server none.
    """
    if not (url := os.environ.get("PREFECT_API_URL")):
        return login_environment(f"pllava:{secrets.token_urlsafe(32)}")
    stack = recorded(ROOT)
    return stack.login() if stack is not None and url.rstrip("/") == f"{stack.prefect_url}/api" else {}


ENVIRONMENT = QUIET | {"PREFECT_HOME": str(ROOT / ".state" / "prefect")} | _login()
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
with suppress(OSError):  # a full disk: the server, which does not start, says so
    state_folder(Path(os.environ["PREFECT_HOME"]))  # Prefect makes the last folder of the path only
