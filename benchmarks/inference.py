"""Questions a second about one video, beside the plain way: `python benchmarks/inference.py`.

The mid config: CLIP 192 x 6 at 336 px, Llama 256 x 6 with a vocabulary of 32,064, 16 frames pooled to 16 x 12 x 12, random weights, fp32,
two threads, sdpa attention, a real H.264 clip. 20 new tokens a question.

plain     each question decodes, encodes and prefills the video again (`model.generate` on the whole prompt), as the published code does
ours      `chat.watch` once, then `video.ask_all`; the cache of videos is off, so watching is in the time of each round

Both take turns; medians with quartiles. Then bf16 and int8 (torch's dynamic quantisation of the language model) with what they change,
and cost against frames and questions (table and picture). Ends with one JSON line; exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mid import write_base

import pllava
from pllava.chat import VideoChat
from pllava.video.reader import read_video

ROOT = Path(__file__).resolve().parents[1]
ADAPTER = ROOT / "outputs/train/adapter"  # of the default pipeline: accuracy in other number formats
THREADS = 2
TOKENS = 20
LONG = 32  # tokens of an answer where throughput is measured
QUESTIONS = [
    "What happens in the video?", "Who is there?", "Which way does the square move?", "What is its color?", "How many squares are there?",
    "Describe the background.", "Is anything else moving?", "What happens first, and what happens after that?", "Where does it stop?",
    "Is the camera moving as well, or only the square?",
]  # fmt: skip
BARS = {"questions_speedup": 6.0, "batch8_speedup": 3.0}
MOST_SECOND_FIRST_TOKEN = 0.1
FRAMES = (4, 8, 16, 32, 64)
COUNTS = (1, 2, 4, 8, 16, 32, 64)
Times = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=ROOT / "outputs/benchmarks/inference.png", help="picture of the cost curves")
    parser.add_argument("--no-curves", action="store_true", help="only what the bars are about")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_clip(clip)
        write_base(folder / "base")
        model, processor = pllava.load(folder / "base", dtype="float32", device="cpu")
        chat = VideoChat(model, processor, "vicuna", cache_bytes=0)
        times, answers = measure(chat, clip, arguments.rounds)
        formats = number_formats(chat, clip)
        curves = {} if arguments.no_curves else measure_curves(folder / "base", clip, statistics.median(times["plain_question"]))
    return report(times, answers, formats, curves, arguments.plot)


def measure(chat: VideoChat, clip: Path, rounds: int) -> tuple[Times, bool]:
    """Seconds of each way, in turn; and whether both gave the same tokens."""
    times: Times = {name: [] for name in ("plain_question", "ours", "first_token", "second_first_token", "batch1", "batch8", "videos8")}
    same = True
    plain(chat, clip, QUESTIONS[0])
    videos = [chat.watch_all([read_video(clip, 16, start=0.1 * k)])[0] for k in range(8)]
    chat.ask_each(videos, QUESTIONS[0], 2)  # warm-up
    for number in range(rounds):
        found = timed(times["ours"], lambda: chat.watch(clip).ask_all(QUESTIONS, TOKENS))
        for k in range(number % len(QUESTIONS), len(QUESTIONS), rounds):  # over the rounds, every question once
            same &= timed(times["plain_question"], lambda k=k: plain(chat, clip, QUESTIONS[k])) == found[k].token_ids
        video = chat.watch(clip)
        timed(times["first_token"], lambda: chat.watch(clip).ask(QUESTIONS[0], 1))
        timed(times["second_first_token"], lambda video=video, k=number: video.ask(QUESTIONS[1 + k % 9], 1))
        one = timed(times["batch1"], lambda video=video: video.ask(QUESTIONS[7], LONG))
        eight = timed(times["batch8"], lambda video=video: video.ask_all(QUESTIONS[:8], LONG))
        timed(times["videos8"], lambda: chat.ask_each(videos, QUESTIONS[:8], LONG))
        same &= one.token_ids == eight[7].token_ids
        print(f"round {number}: " + "  ".join(f"{name} {taken[-1]:.3f}" for name, taken in times.items()), flush=True)
    return times, same


def plain(chat: VideoChat, clip: Path, question: str, tokens: int = TOKENS) -> list[int]:
    """One question the published way: decode, encode, prefill and generate for it alone."""
    frames = read_video(clip, chat.processor.num_frames, chat.sampling).frames
    batch = chat.processor(text=chat.template.prompt_for(question), videos=[frames])
    return chat.generate(**batch, **chat.settings(tokens))[0]


def timed(into: list[float], work: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = work()
    into.append(time.perf_counter() - began)
    return result


def number_formats(chat: VideoChat, clip: Path) -> dict[str, dict[str, Any]]:
    """Ten questions in bf16 and int8: speed, and what changes of logits, tokens, and accuracy where there is data."""
    expected = chat.watch(clip).ask_all(QUESTIONS, TOKENS)
    exact = forced_logits(chat, clip, expected)
    found: dict[str, dict[str, Any]] = {}
    for name, convert in FORMATS.items():
        other = VideoChat(convert(copy.deepcopy(chat.model)), chat.processor, chat.template, cache_bytes=0)
        other.watch(clip).ask_all(QUESTIONS[:2], 2)
        seconds: list[float] = []
        for _ in range(2):
            answers = timed(seconds, lambda other=other: other.watch(clip).ask_all(QUESTIONS, TOKENS))
        logits = forced_logits(other, clip, expected)
        pairs = [(a, b) for x, y in zip(answers, expected, strict=True) for a, b in zip(x.token_ids, y.token_ids, strict=False)]
        found[name] = {
            "seconds": statistics.median(seconds),
            "same_tokens": sum(a == b for a, b in pairs) / len(pairs),
            "same_next_token": (logits.argmax(-1) == exact.argmax(-1)).float().mean().item(),
            "logit_difference": ((logits - exact).abs().mean() / exact.std()).item(),
            "accuracy": accuracy(convert),
        }
        print(f"{name}: {found[name]}", flush=True)
    return found


def to_int8(model: Any) -> Any:
    from torch.ao.quantization import quantize_dynamic

    language = model.get_base_model().model if hasattr(model, "peft_config") else model.model
    language.language_model = quantize_dynamic(language.language_model, {torch.nn.Linear}, dtype=torch.qint8)
    return model


FORMATS: dict[str, Callable[[Any], Any]] = {"fp32": lambda model: model, "bf16": lambda model: model.to(torch.bfloat16), "int8": to_int8}


@torch.inference_mode()
def forced_logits(chat: VideoChat, clip: Path, answers: Sequence[Any]) -> torch.Tensor:
    """Logits [tokens, vocabulary] before each token of given answers."""
    batch = chat.processor(videos=[read_video(clip, chat.processor.num_frames).frames])
    visual = chat.model.encode_video(batch["pixel_values_videos"].to(chat.model.dtype))
    media = {"image": type("Encoded", (), {"pooler_output": list(visual)})()}
    rows = []
    for answer in answers[:4]:
        ids = torch.tensor([[*chat.tokenize(answer.prompt), *answer.token_ids]])
        logits = chat.model(input_ids=ids, mm_encoder_outputs=media, logits_to_keep=len(answer.token_ids) + 1).logits
        rows.append(logits[0, :-1].float())
    return torch.cat(rows)


def accuracy(convert: Callable[[Any], Any], a_task: int = 5) -> float | None:
    """Of the default pipeline's adapter on its held-out clips, the first of each task; None where nothing is trained yet."""
    from pllava.benchmarks.letter_match import score
    from pllava.benchmarks.mvbench import BENCHMARK
    from pllava.core.params import load_params

    params = load_params(ROOT / "params.yaml")
    settings = params.evaluate.benchmarks.get("mvbench")
    if settings is None or not (ADAPTER / "manifest.json").is_file() or not (ROOT / settings.root / "json").is_dir():
        return None
    model, processor = pllava.load(ROOT / params.model.base, adapter=ADAPTER, dtype="float32", device="cpu", merge=True)
    chat = VideoChat(convert(model), processor, settings.template)
    samples = BENCHMARK.samples(ROOT / settings.root, a_task)
    videos = [chat.watch(sample.media, sample.start, sample.end) for sample in samples]
    answers = chat.ask_each(videos, [BENCHMARK.prompt(sample) for sample in samples], settings.max_new_tokens)
    return sum(score(a.text, BENCHMARK.expected(s)) for a, s in zip(answers, samples, strict=True)) / len(samples)


def measure_curves(base: Path, clip: Path, plain_seconds: float) -> dict[str, list[list[float]]]:
    """[number of frames, seconds to watch, seconds of one question behind it, plain seconds a question], and
    [number of questions, seconds of ours, plain seconds: so many times one question's]."""
    frames, questions = [], []
    for number in FRAMES:
        model, processor = pllava.load(base, dtype="float32", device="cpu", num_frames=number, pooling_shape=(number, 12, 12))
        chat = VideoChat(model, processor, "vicuna", cache_bytes=0)
        taken: list[float] = []
        video = timed(taken, lambda chat=chat: chat.watch(clip))
        timed(taken, lambda video=video: video.ask(QUESTIONS[0], TOKENS))
        timed(taken, lambda chat=chat: plain(chat, clip, QUESTIONS[0]))
        frames.append([number, *taken])
        if number == 16:
            for count in COUNTS:
                asked = [f"{QUESTIONS[k % 10]} ({k})" for k in range(count)]
                one: list[float] = []
                timed(one, lambda chat=chat, asked=asked: chat.watch(clip).ask_all(asked, TOKENS))
                questions.append([count, one[0], count * plain_seconds])
    return {"frames": frames, "questions": questions}


def report(times: Times, same: bool, formats: dict[str, Any], curves: dict[str, Any], plot: Path) -> int:
    median = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"\n{'':<22}{'median s':>10}{'quartiles':>18}")
    for name, taken in times.items():
        low, _, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else (taken[0],) * 3
        print(f"{name:<22}{median[name]:>10.3f}{f'{low:.3f}-{high:.3f}':>18}")
    print(f"\n{'':<6}{'ten questions, s':>18}{'same tokens':>13}{'same next':>11}{'logits off, of std':>20}{'accuracy, tiny default':>24}")
    for name, one in formats.items():
        right = "not trained here" if one["accuracy"] is None else f"{one['accuracy']:.1%}"
        print(
            f"{name:<6}{one['seconds']:>18.2f}{one['same_tokens']:>13.1%}{one['same_next_token']:>11.1%}{one['logit_difference']:>20.4f}{right:>24}"
        )
    if curves:
        print(
            f"\n{'frames':>8}{'watch, s':>10}{'ask, s':>9}{'plain, s':>10}      {'questions':>9}{'ours, s':>9}{'plain, s':>10}{'times':>7}"
        )
        for row in range(max(len(FRAMES), len(COUNTS))):
            left = curves["frames"][row] if row < len(FRAMES) else None
            line = f"{left[0]:>8}{left[1]:>10.2f}{left[2]:>9.3f}{left[3]:>10.2f}" if left else " " * 37
            right = curves["questions"][row]
            print(f"{line}      {right[0]:>9}{right[1]:>9.2f}{right[2]:>10.2f}{right[2] / right[1]:>7.1f}")
        draw(curves, plot)
        print(f"drawn in {plot.relative_to(ROOT) if plot.is_relative_to(ROOT) else plot}")
    result = {
        "benchmark": "inference",
        "questions_speedup": round(len(QUESTIONS) * median["plain_question"] / median["ours"], 2),
        "same_answers": same,
        "second_first_token_ratio": round(median["second_first_token"] / median["first_token"], 4),
        "batch8_speedup": round(8 * median["batch1"] / median["batch8"], 2),
        "batch8_videos_speedup": round(8 * median["batch1"] / median["videos8"], 2),
        "questions_a_second": round(len(QUESTIONS) / median["ours"], 2),
        "plain_questions_a_second": round(1 / median["plain_question"], 2),
        "median_seconds": {name: round(value, 4) for name, value in median.items()},
        "formats": {name: {key: value and round(value, 4) for key, value in one.items()} for name, one in formats.items()},
    }
    missed = [f"{key} {result[key]} of {bar}" for key, bar in BARS.items() if result[key] < bar]
    if result["second_first_token_ratio"] >= MOST_SECOND_FIRST_TOKEN:
        missed.append(f"second_first_token_ratio {result['second_first_token_ratio']}, less than {MOST_SECOND_FIRST_TOKEN}")
    if not same:
        missed.append("the answers differ")
    print("\nevery bar is met" if not missed else "\nmissed: " + "; ".join(missed))
    print(json.dumps(result | {"missed": missed}))
    return 1 if missed else 0


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    frames, questions = curves["frames"], curves["questions"]
    for column, label, color in ((3, "plain: one question", "#b3b3b3"), (1, "watch, once", "#17697f"), (2, "ask, each", "#e09f3e")):
        left.plot([row[0] for row in frames], [row[column] for row in frames], "o-", label=label, color=color)
    left.set(xlabel="frames (144 visual tokens each)", ylabel="seconds", title="Cost against frames", xscale="log", yscale="log")
    for column, label, color in ((2, "plain", "#b3b3b3"), (1, "watch + ask_all", "#17697f")):
        right.plot([row[0] for row in questions], [row[column] for row in questions], "o-", label=label, color=color)
    right.set(xlabel="questions about one video, 20 tokens each", title="Cost against questions", xscale="log", yscale="log")
    for axes, ticks in ((left, FRAMES), (right, COUNTS)):
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_clip(path: Path, width: int = 480, height: int = 360, frames: int = 96) -> None:
    """Four seconds of a bright square that moves over noise."""
    import av
    import numpy as np

    ground = np.random.default_rng(0).integers(0, 120, (height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"threads": "1", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            image = ground.copy()
            left = index * 4 % (width - 60)
            image[100:160, left : left + 60] = (220, 80, 40)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


if __name__ == "__main__":
    sys.exit(main())
