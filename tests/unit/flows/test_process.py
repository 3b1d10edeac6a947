"""A stage's process: its lines arrive as they come, and nothing of it survives us."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pllava.core.command import KEPT_LINES, accept, end_all, stream


def run(code, say=lambda line: None):
    return stream([sys.executable, "-c", code], Path(), dict(os.environ), say)


def test_lines_and_exit_code_are_passed_on():
    lines = []
    assert run("import sys; print('out'); print('err', file=sys.stderr, flush=True); sys.exit(3)", lines.append)[0] == 3
    assert sorted(lines) == ["err", "out"]


def test_a_redrawn_progress_bar_is_one_line():
    lines = []
    run(r"print('10 %\r50 %\r100 %')", lines.append)
    assert lines == ["100 %"]


def test_only_the_last_lines_are_kept():
    code, last = run("print(*range(1000), sep='\\n')")
    assert (code, last) == (0, [str(n) for n in range(1000 - KEPT_LINES, 1000)])


STREAMS = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pllava.core.command import stream
tree = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(601)'])"
if __name__ == "__main__":
    command = [sys.executable, "-c", tree]
    if "pool" in sys.argv:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(stream, command, Path(), dict(os.environ), print).result()
    stream(command, Path(), dict(os.environ), lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("where", ["here", "pool"])
def test_killed_outright_we_still_leave_nothing_behind(tmp_path, where):
    (tmp_path / "streams.py").write_text(STREAMS)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path)]), "PREFECT_HOME": str(tmp_path)}
    killed = subprocess.Popen([sys.executable, str(tmp_path / "streams.py"), where], env=env, stdout=subprocess.DEVNULL)

    def tree():
        found = [process for process in psutil.process_iter(["cmdline"]) if "time.sleep(601)" in " ".join(process.info["cmdline"] or [])]
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    deadline = time.monotonic() + 30
    while len(tree()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    below = psutil.Process(killed.pid).children(recursive=True)
    assert len(tree()) == 2
    killed.kill()
    killed.wait()
    _, left = psutil.wait_procs(below, timeout=10)
    assert left == []
    assert tree() == []


def command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # another test's child that has just ended
        return ""


def test_ending_reaches_grandchildren():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)'])"
    started, outcome = threading.Event(), []
    thread = threading.Thread(target=lambda: outcome.append(run(code, lambda line: started.set())))
    thread.start()
    assert started.wait(60)
    tree = [p for p in psutil.Process().children(recursive=True) if "time.sleep(600)" in command(p)]
    assert len(tree) == 2
    end_all()
    thread.join(30)
    assert outcome[0][0] != 0
    deadline = time.monotonic() + 10
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree)


def test_what_does_not_end_is_ended_after_the_time_that_is_set(monkeypatch):
    """Those that run are ended all at once, and the next in the queue does not begin."""
    monkeypatch.setattr("pllava.core.command._patience", lambda folder: 2.0)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    begun = []
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(run, stubborn, begun.append) for _ in range(6)]
        while len(begun) < 3:
            time.sleep(0.05)
        at = time.monotonic()
        end_all(refuse=True)
    accept()
    assert time.monotonic() - at < 5
    assert len(begun) == 3
    assert [future.result()[0] for future in futures] == [-signal.SIGKILL] * 3 + [-signal.SIGTERM] * 3
    assert run("pass")[0] == 0


def test_the_wait_is_that_of_the_project_and_longer_than_a_step(tmp_path):
    """What is asked to end may take as long as run.stop_seconds says, is not asked in vain, and its last words are passed on."""
    (tmp_path / "params.yaml").write_text(
        (Path(__file__).parents[3] / "params.yaml").read_text().replace("stop_seconds: 300", "stop_seconds: 5")
    )
    saves = (
        "import signal, sys, time\n"
        "def save(*_): time.sleep(3); print('saved', flush=True); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, save); print('begun', flush=True); time.sleep(600)"
    )
    shell = ["sh", "-c", f'{sys.executable} -c "{saves}"; true']  # dies at once when told to, as dvc does
    lines: list[str] = []
    thread = threading.Thread(target=stream, args=(shell, tmp_path, dict(os.environ), lines.append))
    thread.start()
    while not lines:
        time.sleep(0.05)
    end_all()
    thread.join(30)
    assert lines == ["begun", "saved"]


def test_a_kill_outright_leaves_the_stage_its_time_too(tmp_path):
    (tmp_path / "streams.py").write_text(
        STREAMS.replace('command = [sys.executable, "-c", tree]', "command = [sys.executable, sys.argv[2]]")
    )
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time\n"
        "def save(*_): time.sleep(4); open(sys.argv[0] + '.saved', 'w'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save); open(sys.argv[0] + '.begun', 'w'); time.sleep(600)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path)]), "PREFECT_HOME": str(tmp_path)}
    killed = subprocess.Popen([sys.executable, str(tmp_path / "streams.py"), "here", str(tmp_path / "slow.py")], env=env)
    until(tmp_path / "slow.py.begun")
    killed.kill()
    killed.wait()
    until(tmp_path / "slow.py.saved")


def until(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
