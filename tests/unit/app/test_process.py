"""Only the process we started is ended, and a busy port is named with its holder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pllava.core import processes as process
from pllava.core.errors import PllavaError
from pllava.core.files import read_json, write_json


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sleeper():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def test_stop_ends_the_recorded_process_and_forgets_it(sleeper):
    process.record(psutil.Process(sleeper.pid), port=1)
    assert process.recorded()["port"] == 1
    assert process.stop() == sleeper.pid
    assert sleeper.wait(timeout=10) != 0
    assert process.recorded() is None
    assert not Path(process.RECORD).exists()


def test_stop_ends_what_the_process_started_too():
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    grandchild = int(child.stdout.readline())
    process.record(psutil.Process(child.pid))
    process.stop()
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    child.communicate()


def test_a_process_that_ignores_terminate_is_ended_all_the_same(monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 1)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    process.record(psutil.Process(child.pid))
    assert process.stop() == child.pid
    assert child.wait(timeout=10) == -9


def test_a_pid_that_someone_else_has_by_now_is_left_alone(sleeper):
    process.record(psutil.Process(sleeper.pid))
    entry = read_json(process.RECORD)
    write_json(process.RECORD, entry | {"created": entry["created"] - 60})
    assert process.stop() is None
    assert sleeper.poll() is None
    assert not Path(process.RECORD).exists()


def test_nothing_to_stop_is_no_error():
    assert process.stop() is None


def test_a_busy_port_is_named_with_its_holder():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PllavaError, match=rf"port {port} on 127.0.0.1 is in use.*held by process {os.getpid()} .*Try this next"):
            process.require_free_port("127.0.0.1", port, "Try this next")
    process.require_free_port("127.0.0.1", port, "Try this next")


def test_an_address_that_is_not_ours_is_no_busy_port():
    with pytest.raises(PllavaError, match=r"cannot listen on 192\.0\.2\.1:7860: .* Take --host"):
        process.require_free_port("192.0.2.1", 7860, "Take --host")
