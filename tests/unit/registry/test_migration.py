"""MLflow's tables are whole or as they were, whenever the process that makes them is killed. Real migrations, real kills."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from pllava.core.errors import PllavaError
from pllava.tracking.store import migrate

pytestmark = pytest.mark.timeout(300)

SETUP = [sys.executable, "-c", "import sys; from pllava.tracking.store import migrate; migrate(sys.argv[1])"]
UPGRADE = [sys.executable, "-m", "mlflow", "db", "upgrade"]


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def begun(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.db") if path.stat().st_size > 0]


def killed(command: list[str], folder: Path, after: float) -> None:
    """Start it, and kill it and its children so many seconds after its first table is there."""
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not begun(folder) and process.poll() is None:
        time.sleep(0.002)
    time.sleep(after)
    with_all_its_own = process.pid
    os.killpg(with_all_its_own, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    database = tmp_path_factory.mktemp("whole") / "mlflow.db"
    migrate(f"sqlite:///{database}")
    assert sorted(path.name.split(".")[1] for path in database.parent.iterdir()) == ["db", "db", "mlflow"]  # the lock, and the marker
    return database.read_bytes()


def test_a_kill_at_any_moment_leaves_no_file_or_a_whole_one(tmp_path: Path, whole: bytes) -> None:
    database = tmp_path / "mlflow.db"
    for after in (0.0, 0.15, 0.4, 0.8):
        killed([*SETUP, f"sqlite:///{database}"], tmp_path, after)
        assert not database.exists()
    subprocess.run([*SETUP, f"sqlite:///{database}"], check=True)
    assert len(database.read_bytes()) == len(whole)
    assert not list(tmp_path.glob(".*migrating*"))


def test_what_an_upgrade_left_half_done_is_set_aside_and_said(tmp_path: Path, whole: bytes) -> None:
    """The migration of mlflow itself, killed until it is broken: the next command works, and says what it did in one sentence."""
    for number in range(8):
        database = tmp_path / str(number) / "mlflow.db"
        database.parent.mkdir()
        killed([*UPGRADE, f"sqlite:///{database}"], database.parent, 0.1 + 0.13 * number)
        left = database.read_bytes()
        done = subprocess.run([*SETUP, f"sqlite:///{database}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert revision(database)
        aside = list(database.parent.glob("mlflow.db.half-migrated-*"))
        if aside:
            assert len(done.stderr.strip().splitlines()) == 1
            assert str(aside[0]) in done.stderr
            assert len(aside[0].read_bytes()) <= len(left) or aside[0].stat().st_size
            return
    pytest.skip("none of eight kills broke the file")


def test_a_step_that_was_done_in_part_is_set_aside(tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(whole)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # its first step
        connection.commit()
    broken = database.read_bytes()
    migrate(f"sqlite:///{database}")
    (aside,) = tmp_path.glob("mlflow.db.half-migrated-*")
    assert aside.read_bytes() == broken
    assert capsys.readouterr().err.count("\n") == 1
    assert len(database.read_bytes()) == len(whole)


def test_records_and_what_is_in_a_wal_are_kept(tmp_path: Path, whole: bytes) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(whole)
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA journal_mode=WAL');"
        "c.execute(\"INSERT INTO experiments (name, lifecycle_stage) VALUES ('mine', 'active')\"); c.commit(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(database)])
    assert Path(f"{database}-wal").stat().st_size > 0
    migrate(f"sqlite:///{database}")
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM experiments WHERE name = 'mine'").fetchone() == (1,)
    assert not list(tmp_path.glob("*-wal"))
    assert not list(tmp_path.glob("*half*"))


def test_a_file_that_cannot_be_migrated_stays_as_it_was(tmp_path: Path, whole: bytes) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(whole)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")  # of a newer mlflow
        connection.commit()
    newer = database.read_bytes()
    with pytest.raises(PllavaError, match="is as it was"):
        migrate(f"sqlite:///{database}")
    assert database.read_bytes() == newer
    assert not list(tmp_path.glob("*half*"))
    database.write_bytes(b"no database " * 1000)
    with pytest.raises(PllavaError, match="cannot be read"):
        migrate(f"sqlite:///{database}")
    assert database.read_bytes() == b"no database " * 1000


def test_two_at_once_make_one_store(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    threads = [threading.Thread(target=subprocess.run, args=([*SETUP, f"sqlite:///{database}"],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert revision(database)
    assert not list(tmp_path.glob("*half*"))
