"""A stage's process: its lines arrive as they come, and nothing of it survives us."""

import os
import sys
import threading
import time
from pathlib import Path

import psutil

from flows.process import KEPT_LINES, end_all, stream


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


def test_ending_reaches_grandchildren():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)'])"
    started, outcome = threading.Event(), []
    thread = threading.Thread(target=lambda: outcome.append(run(code, lambda line: started.set())))
    thread.start()
    assert started.wait(60)
    tree = [p for p in psutil.Process().children(recursive=True) if "time.sleep(600)" in " ".join(p.cmdline())]
    assert len(tree) == 2
    end_all()
    thread.join(30)
    assert outcome[0][0] != 0
    deadline = time.monotonic() + 10
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree)
