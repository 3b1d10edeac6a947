"""Time and memory of an evaluation: `python benchmarks/evaluate.py --clips 1000 --questions 10000`.

A tiny random model answers multiple-choice questions about clips that are rendered here, as `base`, `single_frame` and `adapted`. A tenth
of the questions, half of them, then all, each in a process of its own. The first shows what loading and the allocator's warm-up take;
memory is bounded when the third peak is not far above the second.
Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "tests/reference/ckpt/tiny56_base"
ACCEPTED_GROWTH = 8_000  # bytes a question: the question itself and three scores; answers are on disk


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--run", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        return run(Path(arguments.run))
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        began = time.perf_counter()
        write_adapter(project)
        for index in range(arguments.clips):
            write_clip(project / "MVBench/video/count" / f"{index}.mp4", index)
        print(f"{arguments.clips} clips rendered in {time.perf_counter() - began:.0f} s")
        print(f"{'questions':>10} {'clips':>6} {'seconds':>8} {'answers/s':>10} {'peak MB':>8}")
        found = []
        for share in (10, 2, 1):
            write_questions(project, arguments.clips // share, arguments.questions // share)
            found.append(measure(project, arguments.questions // share))
            last = found[-1]
            print(
                f"{last['questions']:10d} {arguments.clips // share:6d} {last['seconds']:8.1f} "
                f"{3 * last['questions'] / last['seconds']:10.1f} {last['peak_bytes'] / 1e6:8.0f}",
                flush=True,
            )
    growth = (found[2]["peak_bytes"] - found[1]["peak_bytes"]) / (found[2]["questions"] - found[1]["questions"])
    bounded = growth < ACCEPTED_GROWTH
    print(f"{growth / 1000:.1f} kB a question: {'bounded' if bounded else 'NOT bounded'} (accepted: {ACCEPTED_GROWTH / 1000:.0f} kB)")
    print(
        json.dumps(
            {"benchmark": "evaluate", "clips": arguments.clips, "runs": found, "bytes_a_question": round(growth), "bounded": bounded}
        )
    )
    return 0 if bounded else 1


def measure(project: Path, questions: int) -> dict[str, float]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    command = [sys.executable, __file__, "--run", str(project)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    if output.returncode:
        sys.exit(output.stderr)
    return {"questions": questions, **json.loads(output.stdout.splitlines()[-1])}


def run(project: Path) -> int:
    """One evaluation, in this process."""
    from contextlib import nullcontext

    os.chdir(project)
    from pllava.core.params import load_params
    from pllava.stages.evaluate.run import evaluate
    from pllava.tracking import runs as tracking

    tracking.later_stage = lambda params: nullcontext(tracking.Run(None, None))  # MLflow is not what is measured
    params = load_params()
    began = time.perf_counter()
    evaluate(params, "mvbench")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "peak_bytes": peak}))
    return 0


def write_adapter(project: Path) -> None:
    import pllava
    from pllava.core.params import Lora
    from pllava.model.adapter import add_lora, save_adapter

    model, _ = pllava.load(BASE, num_frames=4, pooling_shape=(4, 2, 2))
    adapted = add_lora(model, Lora(r=4, alpha=8, dropout=0, target_modules=["q_proj", "v_proj"]), seed=0)
    save_adapter(adapted, project / "outputs/train/adapter", {"base": str(BASE)})
    values = {
        "data": {"train": [{"name": "none", "annotations": "none.json", "media": "."}]},
        "model": {"base": str(BASE), "num_frames": 4, "pooling_shape": [4, 2, 2], "template": "tiny", "dtype": "float32"},
        "train": {"steps": 1, "batch_size": 1},
        "evaluate": {"batch_size": 64, "benchmarks": {"mvbench": {"root": "MVBench", "template": "tiny_mvbench", "max_new_tokens": 2}}},
    }
    (project / "params.yaml").write_text(json.dumps(values))  # JSON is YAML


def write_questions(project: Path, clips: int, questions: int) -> None:
    options = ["one", "two", "three", "four"]
    entries = [
        {"video": f"{index % clips}.mp4", "question": f"How many, {index}?", "candidates": options, "answer": options[index % 4]}
        for index in range(questions)
    ]
    (project / "MVBench/json").mkdir(exist_ok=True)
    (project / "MVBench/json/count.json").write_text(json.dumps(entries))


def write_clip(path: Path, seed: int, size: int = 64, frames: int = 8) -> None:
    """A bright square that moves over a dark ground."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    images: Sequence[np.ndarray] = [np.full((size, size, 3), 20 + seed % 60, np.uint8) for _ in range(frames)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"threads": "1", "preset": "ultrafast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index, image in enumerate(images):
            left = (seed * 5 + index * 4) % (size - 16)
            image[seed % 40 : seed % 40 + 16, left : left + 16] = (200, 80 + seed % 150, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
