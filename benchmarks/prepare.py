"""How fast `prepare` streams and how much memory it takes: `python benchmarks/prepare.py --rows 1000000`.

Two sizes, the second ten times the first, each in a process of its own: when memory is constant, the peaks are alike. Rows are short
conversations about a few clips (GIFs of five frames), so that text, order and writing are measured, not decoding; `decoded` says how many
files were opened. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["the", "red", "blue", "circle", "square", "moves", "left", "right", "then", "stops", "and", "appears", "behind", "it"]


def write_project(folder: Path, rows: int, clips: int) -> None:
    """Annotations are written a row at a time, too."""
    from PIL import Image

    (folder / "clips").mkdir(parents=True)
    for clip in range(clips):
        frames = [Image.new("RGB", (48, 32), (clip % 256, clip // 256, step * 50)) for step in range(5)]
        frames[0].save(folder / f"clips/{clip}.gif", save_all=True, append_images=frames[1:], duration=100)
    task = folder / "MVBench"
    (task / "json").mkdir(parents=True)
    (task / "video/moving_count").mkdir(parents=True)
    Image.new("RGB", (48, 32), (1, 2, 3)).save(task / "video/moving_count/0.png")
    question = {"video": "0.png", "question": "How many?", "candidates": ["1", "2"], "answer": "1"}
    (task / "json/moving_count.json").write_text(json.dumps([question]))
    rng = random.Random(0)
    with (folder / "train.json").open("w") as file:
        for row in range(rows):
            text = [" ".join(rng.choices(WORDS, k=12)) for _ in range(4)]
            qa = [{"i": "", "q": f"{text[0]}?", "a": f"{text[1]} {row}."}, {"i": "", "q": f"{text[2]}?", "a": f"{text[3]}."}]
            file.write(("[" if not row else ",\n") + json.dumps({"video": f"{row % clips}.gif", "QA": qa}))
        file.write("]\n")


def measure(folder: Path) -> None:
    """In a process of its own: prepare, then seconds and peak memory on stdout."""
    import resource

    from pllava.core.params import Params
    from pllava.stages.prepare.run import prepare

    values = {
        "data": {"train": [{"name": "many", "annotations": "train.json", "media": "clips"}], "workers": 1},
        "model": {"base": str(ROOT / "data/base/tiny-llava"), "template": "tiny"},
        "train": {"steps": 1, "batch_size": 1, "max_length": 320},
        "evaluate": {"benchmarks": {"mvbench": {"root": "MVBench", "template": "tiny_mvbench"}}},
    }
    with contextlib.chdir(folder):
        began, began_cpu = time.perf_counter(), time.process_time()
        prepare(Params.model_validate(values))
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        kept = json.loads(Path("data/prepared/report.json").read_text())["splits"]["train"]["rows"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    rates = {"rows_per_second": round(kept / seconds), "rows_per_cpu_second": round(kept / cpu)}  # equal on an idle machine
    print(json.dumps({"rows": kept, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), **rates, "peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    runs = []
    with tempfile.TemporaryDirectory(prefix="prepare-") as temporary:
        for rows in (arguments.rows // 10, arguments.rows):
            folder = Path(temporary, str(rows))
            write_project(folder, rows, arguments.clips)
            command = [sys.executable, __file__, "--measure", str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
            run = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)
            runs.append({**run, "decoded": arguments.clips, "annotation_bytes": (folder / "train.json").stat().st_size})
    print(f"{'rows':>10}  {'annotations':>12}  {'seconds':>8}  {'rows/s':>7}  {'rows/CPU s':>10}  {'peak memory':>12}")
    for run in runs:
        size, peak = f"{run['annotation_bytes'] / 1e6:.0f} MB", f"{run['peak_bytes'] / 1e6:.0f} MB"
        rates = f"{run['rows_per_second']:>7,}  {run['rows_per_cpu_second']:>10,}"
        print(f"{run['rows']:>10,}  {size:>12}  {run['seconds']:>8}  {rates}  {peak:>12}")
    grown = round(runs[1]["peak_bytes"] / runs[0]["peak_bytes"], 3)
    print(json.dumps({"benchmark": "prepare", "runs": runs, "peak_of_ten_times_the_rows": grown}))


if __name__ == "__main__":
    main()
