"""Records in a real PostgreSQL, by environment variables alone; its password is in no file and on no command line."""

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
from services import Services, copy_project, down_at_the_end, free_ports, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def programs():
    """The folder with initdb and postgres: of Debian's packages, or on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="module")
def server():
    """(host and port, password) of a PostgreSQL with the empty databases `mlflow` and `prefect`."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install 'pllava[postgres]'")
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    import psycopg2

    password, (port,) = secrets.token_hex(16), free_ports(1)
    home = Path(tempfile.mkdtemp(prefix="pllava-postgres-"))
    (home / "password").write_text(password)
    user = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}  # PostgreSQL refuses to run as root
    if user:
        for path in (home, home / "password"):
            shutil.chown(path, user["user"], user["group"])
    data, quiet = home / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": home, **user}
    settings = ["--username=pllava", f"--pwfile={home / 'password'}", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run([folder / "initdb", "-D", data, *settings], check=True, **quiet)
    command = [folder / "postgres", "-F", "-D", data, "-p", str(port), "-k", home, "-h", "127.0.0.1"]  # -F: it need not survive a crash
    process = subprocess.Popen(command, **quiet)

    def connected():
        try:
            return psycopg2.connect(host="127.0.0.1", port=port, user="pllava", password=password, dbname="postgres")
        except psycopg2.OperationalError:
            return None

    try:
        connection = until(connected, 30)
        connection.autocommit = True
        for name in ("mlflow", "prefect"):
            connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        yield f"127.0.0.1:{port}", password
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(home)


def test_records_are_in_postgresql_and_the_password_is_nowhere_else(server, tmp_path, mlflow_template):
    import psycopg2

    place, password = server
    copy_project(tmp_path, mlflow_template)
    services = Services(
        tmp_path,
        MLFLOW_BACKEND_STORE_URI=f"postgresql+psycopg2://pllava:{password}@{place}/mlflow",
        PREFECT_SERVER_DATABASE_CONNECTION_URL=f"postgresql+asyncpg://pllava:{password}@{place}/prefect",
    )

    def rows(database, query):
        host, port = place.split(":")
        with psycopg2.connect(host=host, port=port, user="pllava", password=password, dbname=database) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            return [row[0] for row in cursor.fetchall()]

    with down_at_the_end(services):
        said = services.do("up")
        assert services.code == 0, said
        status, _ = services.call("/api/2.0/mlflow/experiments/create", {"name": "in postgres"}, base=services.mlflow)
        assert status == 200
        assert "in postgres" in rows("mlflow", "SELECT name FROM experiments")
        assert "experiment" in rows("prefect", "SELECT name FROM deployment")
        assert not (tmp_path / ".state/prefect/prefect.db").exists()
        shown = [" ".join(process.cmdline()) for process in services.processes() if isinstance(process, psutil.Process)]
        assert shown
        assert not any(password in line for line in shown)
    for path in (tmp_path / ".state").rglob("*"):
        assert not path.is_file() or password.encode() not in path.read_bytes(), path
