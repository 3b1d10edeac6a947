"""A process that is killed outright leaves none of its workers behind, however it has started them."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

WORKS = """
import os, sys, time, threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pllava.core.signals import end_with_parent

def work(*_):
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(300)

if __name__ == "__main__":
    how = sys.argv[1]
    if how in ("fork", "spawn"):
        workers = [get_context(how).Process(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
    elif how == "pool":
        pool = ProcessPoolExecutor(2, initializer=end_with_parent)
        for future in [pool.submit(time.sleep, 0.2) for _ in range(2)]:
            future.result()
        print(*pool._processes, sep="\\n", flush=True)  # idle workers wait in a pipe that both hold
    else:
        from pllava.chat.caption.scan import SCANNER
        from pllava.video.child import Child
        from pllava.video.readers import WORKER
        children = [Child.take(module) for module in (WORKER, SCANNER)]
        print(*(child.process.pid for child in children), sep="\\n", flush=True)  # they still import
    time.sleep(300)
"""


@pytest.mark.parametrize("how", ["fork", "spawn", "pool", "readers"])
def test_workers_end_with_a_parent_that_is_killed(tmp_path, how):
    script = tmp_path / "works.py"
    script.write_text(WORKS)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script), how], env=env, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    parent.kill()
    parent.wait()
    _, left = psutil.wait_procs(workers, timeout=20)
    assert left == []
