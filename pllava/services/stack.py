"""The settings of `make up`: ports and stores. They come from the environment, and are recorded in .state while the services run.

| variable | meaning | default |
|---|---|---|
| PLLAVA_MLFLOW_PORT, PLLAVA_PREFECT_PORT | ports on loopback | 5000, 4200 |
| PLLAVA_DEMO_PORT, PLLAVA_BRIDGE_PORT | and these | deploy.port of params.yaml, 5010 |
| MLFLOW_BACKEND_STORE_URI | MLflow's records, postgresql+psycopg2://... | a sqlite file in .state/mlflow |
| MLFLOW_ARTIFACTS_DESTINATION | MLflow's files, s3://bucket/path | .state/mlflow/artifacts |
| MLFLOW_TRACKING_URI | a tracking server elsewhere; then none is started here | |
| PREFECT_SERVER_DATABASE_CONNECTION_URL | Prefect's records, postgresql+asyncpg://... | a sqlite file in .state/prefect |
"""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.files import read_json, state_folder, write_json
from pllava.core.quiet import QUIET

HOST = "127.0.0.1"
STATE = Path(".state")  # all below is relative to the project folder
LOGS = STATE / "logs"
RECORD = STATE / "stack.json"
LOGIN = STATE / "prefect/login"  # NAME:PASSWORD of Prefect's API and pages
MARK = "PLLAVA_STACK"  # in the environment of every process of the stack: the project folder it belongs to
PORTS = {  # name: (variable, default); None: deploy.port of params.yaml
    "mlflow": ("PLLAVA_MLFLOW_PORT", 5000),
    "prefect": ("PLLAVA_PREFECT_PORT", 4200),
    "demo": ("PLLAVA_DEMO_PORT", None),
    "bridge": ("PLLAVA_BRIDGE_PORT", 5010),
}


@dataclass(frozen=True)
class Stack:
    """Addresses of one project's services. Two projects differ in `root` and in ports.

    mlflow_elsewhere: MLFLOW_TRACKING_URI names a tracking server elsewhere, so none is started here.
    """

    root: Path
    mlflow_port: int
    prefect_port: int
    demo_port: int
    bridge_port: int
    mlflow_elsewhere: bool = False

    @property
    def mlflow_url(self) -> str:
        if self.mlflow_elsewhere:
            return os.environ.get("MLFLOW_TRACKING_URI", "elsewhere (MLFLOW_TRACKING_URI)")
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def prefect_url(self) -> str:
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def bridge_url(self) -> str:
        return f"http://{HOST}:{self.bridge_port}"

    def environment(self) -> dict[str, str]:
        """Environment variables of every service and every run, beside the settings of a single service."""
        shared = {
            MARK: str(self.root),
            "PWD": str(self.root),  # prefect.yaml uses it; `make -C` and subprocesses do not set it
            "PREFECT_HOME": str(self.root / STATE / "prefect"),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_UI_API_URL": "/api",  # relative: the browser may use another name, such as localhost
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")])),
        }
        # Each process opens the project's sqlite file itself, as the command line does; records in other stores go through the server.
        # The address of a server elsewhere may hold a password: it is inherited.
        stores = any(os.environ.get(name) for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"))
        if stores and not self.mlflow_elsewhere:
            shared["MLFLOW_TRACKING_URI"] = self.mlflow_url
        return {**{name: value for name, value in QUIET.items() if name not in os.environ}, **shared}

    def login(self) -> dict[str, str]:
        """Environment variables for Prefect's server and its clients. Pass them to processes; write them to no file of settings."""
        return login_environment(secret(self.root / LOGIN, "pllava:"))

    def save(self) -> None:
        write_json(self.root / RECORD, asdict(self) | {"root": str(self.root)})


def wanted(root: Path) -> Stack:
    """The stack that the environment asks for. Raises PllavaError for an invalid port, or one port for two services."""
    from pllava.core.params import load_params

    fallback = {"demo": load_params(root / "params.yaml").deploy.port}
    ports = {name: _port(variable, default or fallback[name]) for name, (variable, default) in PORTS.items()}
    if len(set(ports.values())) < len(ports):
        raise PllavaError(f"two services cannot share a port: {ports}. Set {', '.join(variable for variable, _ in PORTS.values())}")
    address = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    own_addresses = [f"http://{host}:{ports['mlflow']}" for host in (HOST, "localhost")]
    elsewhere = address.startswith("http") and address not in own_addresses
    return Stack(root, mlflow_elsewhere=elsewhere, **{f"{name}_port": port for name, port in ports.items()})


def recorded(root: Path) -> Stack | None:
    """The stack that was started last; None after `down`. It may have died since. Raises PllavaError for an unreadable record."""
    if not (root / RECORD).is_file():
        return None
    try:
        return Stack(**{**read_json(root / RECORD), "root": root})
    except (TypeError, PllavaError):
        raise PllavaError(f"{root / RECORD} is not what `make up` writes. Remove it") from None


def secret(file: Path, before: str = "") -> str:
    """A secret: `before` and 32 random bytes in base64, also the form of a Fernet key. Made at first use; only this user can read it."""
    state_folder(file.parent)
    with suppress(FileNotFoundError):
        if text := file.read_text().strip():
            file.chmod(0o600)
            return text
        file.unlink()
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
        new.write(before + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    with suppress(FileExistsError):  # another process was first: use its secret
        os.link(temporary, file)
    temporary.unlink()
    return file.read_text().strip()


def login_environment(login: str) -> dict[str, str]:
    """Environment variables with a login, NAME:PASSWORD, for Prefect's clients and its server."""
    return {"PREFECT_API_AUTH_STRING": login, "PREFECT_SERVER_API_AUTH_STRING": login}


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise PllavaError(f"{variable} is {text!r}: a port is a number from 1 to 65535")
    return int(text)
