"""Dense captions of an hour in constant memory: `python benchmarks/long_video.py`.

A file of an hour and one of five minutes are rendered (once, into .state/benchmarks/): scenes of 4 to 20 s. Each is captioned by the
built-in model in a process of its own, peak memory taken of it and of its decoding process. Prints a table, then one JSON line;
exit code 1 when the hour takes over 10 % more memory, or a scene's time is off by more than half a frame.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".state" / "benchmarks"
WIDTH, HEIGHT, FPS = 320, 180, 12
ACCEPTED_GROWTH = 1.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60, help="of the long file")
    parser.add_argument("--short", type=int, default=5, help="minutes of the short file")
    parser.add_argument("--new-tokens", type=int, default=10)
    parser.add_argument("--run", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(Path(arguments.run), arguments.new_tokens)
        return 0
    print(f"{'minutes':>8} {'scenes':>7} {'found':>6} {'worst, frames':>13} {'seconds':>8} {'peak MB':>8} {'decoder MB':>10}")
    runs = []
    for minutes in (arguments.short, arguments.minutes):
        path, starts = render(minutes)
        command = [sys.executable, __file__, "--run", str(path), "--new-tokens", str(arguments.new_tokens)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])
        got = np.asarray(found.pop("starts"))
        errors = [float(np.abs(got - start).min() * FPS) for start in starts]
        found |= {
            "minutes": minutes,
            "scenes": len(starts),
            "found": sum(error < 0.5 for error in errors),
            "worst_error_frames": round(max(errors), 3),
            "segments": len(got),
        }
        runs.append(found)
        print(
            f"{minutes:8d} {found['scenes']:7d} {found['found']:6d} {found['worst_error_frames']:13.2f} {found['seconds']:8.1f} "
            f"{found['peak_bytes'] / 1e6:8.0f} {found['decoder_peak_bytes'] / 1e6:10.0f}",
            flush=True,
        )
    short, long = runs
    growth = max(long[name] / short[name] for name in ("peak_bytes", "decoder_peak_bytes"))
    per_hour = long["seconds"] * 60 / arguments.minutes
    print(json.dumps({"benchmark": "long_video", "memory_growth": round(growth, 3), "seconds_per_hour": round(per_hour, 1), "runs": runs}))
    exact = all(found["found"] == found["scenes"] for found in runs)
    return 0 if growth <= ACCEPTED_GROWTH and exact else 1


def run(path: Path, new_tokens: int) -> None:
    """One file, in this process."""
    import pllava

    model, processor = pllava.load(ROOT / "data/base/tiny-llava")
    chat = pllava.VideoChat(model, processor, template="tiny")
    began = time.perf_counter()
    dense = pllava.dense_caption(chat, path, max_new_tokens=new_tokens, batch_size=8)
    starts = [segment.start for segment in dense]
    assert not dense.notes, dense.notes
    from pllava.chat.caption.scan import SCANNER
    from pllava.video.child import Child

    [decoder] = Child.idle[SCANNER]
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - began, 1),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
                "decoder_peak_bytes": peak_of(decoder.process.pid),
                "starts": starts,
            }
        )
    )


def peak_of(pid: int) -> int:
    """Of a process that is there, by the kernel's books: the usage of ended children counts what they had of us before they began."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def render(minutes: int) -> tuple[Path, list[float]]:
    """The file, and when its scenes begin."""
    import av

    path = CACHE / f"long_{minutes}.mp4"
    rng = np.random.default_rng(0)
    lengths: list[int] = []
    while sum(lengths) < 60 * minutes * FPS:
        lengths.append(int(rng.integers(4 * FPS, 20 * FPS)))
    lengths[-1] -= sum(lengths) - 60 * minutes * FPS
    if lengths[-1] < 4 * FPS:
        last = lengths.pop()
        lengths[-1] += last
    starts = [float(start) / FPS for start in np.cumsum([0, *lengths[:-1]])]
    if path.exists():
        return path, starts
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.mp4")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "32", "g": "600"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, FPS)
        for number, length in enumerate(lengths):
            color = np.random.default_rng(number).permutation([40, 130, 220]) + (25 if number % 2 else -25)
            ground = np.full((HEIGHT, WIDTH, 3), color, np.uint8)
            for index in range(length):
                image = ground.copy()
                left = (3 * index + 31 * number) % (WIDTH - 40)
                image[60:100, left : left + 40] = 255 - color
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)
    return path, starts


if __name__ == "__main__":
    sys.exit(main())
