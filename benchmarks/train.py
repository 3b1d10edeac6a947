"""Samples a second of a training step, ours beside two plain forms: `python benchmarks/train.py`.

The mid config: CLIP 192 x 6 at 336 px, Llama 256 x 6 with a vocabulary of 32,064, 16 frames pooled to 16 x 12 x 12, LoRA of rank 128, two
clips a step with about 90 text tokens each, two threads; random weights, real H.264 clips.

published      what the published code does in a step: every layer of the tower, projector before pooling, text padded to 512, logits at
               every position and the loss over the whole vocabulary, eager attention, gradient checkpointing
tuned          the same with sdpa attention and no gradient checkpointing
ours           `pllava.stages.train` itself, its `Trainer` and its step, from pixels; train.packing, gradient_checkpointing blocks:
               the memory bar needs it, the others have room for its time
store          the same from the feature store in fp32, reading it included
store_bf16     the same with train.mixed_precision bf16 and features stored in bf16

Each form is a process of its own that takes the same batch and the same fresh weights; they step in turn, so that another program on
the machine slows all of them. Decoding is outside the clock in every form. Prints a table, then one JSON line; exit code 1 when a bar
is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mid import write_base

ROOT = Path(__file__).resolve().parents[1]
FORMS = ("published", "tuned", "ours", "store", "store_bf16")
TEXT = 512  # tokens the published code pads to
THREADS = 2
BARS = {
    "vs_published": 4.0, "vs_published_store": 6.5, "vs_published_store_bf16": 10.0,
    "vs_tuned": 1.25, "vs_tuned_store": 2.0, "vs_tuned_store_bf16": 4.0,
}  # fmt: skip
MOST_MEMORY = 0.4
MOST_DIFFERENCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="timed steps of each form")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, help="only some, to look closer")
    parser.add_argument("--profile", action="store_true", help="where the time of every form goes, not only of the store's")
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--project", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        return serve(arguments.form, arguments.project)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        write_projects(Path(folder))
        children = {form: stack.enter_context(child(form, Path(folder))) for form in arguments.forms}
        steps: dict[str, list[dict[str, float]]] = {form: [] for form in children}
        for number in range(1 + arguments.rounds):  # the first is warm-up
            for form, ask in children.items():
                steps[form].append(ask("step"))
            print(f"round {number}: " + "  ".join(f"{form} {taken[-1]['seconds']:.2f} s" for form, taken in steps.items()), flush=True)
        peak = {form: ask("peak")["bytes"] for form, ask in children.items()}
        profiled = [form for form in children if arguments.profile or form in ("ours", "store", "store_bf16")]
        profiles = {form: children[form]("profile") for form in profiled}
    return report(steps, peak, profiles)


def report(steps: dict[str, list[dict[str, float]]], peak: dict[str, float], profiles: dict[str, Any]) -> int:
    seconds = {form: [step["seconds"] for step in taken[1:]] for form, taken in steps.items()}
    median = {form: statistics.median(times) for form, times in seconds.items()}
    print(f"\n{'':<12}{'s a step':>10}{'quartiles':>16}{'samples/s':>11}{'peak MB':>9}{'TFLOP':>8}{'of peak':>9}{'first loss':>12}")
    for form, times in seconds.items():
        low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
        work = profiles.get(form, {})
        share = work["flops"] / median[form] / work["matmul_flops_a_second"] if work else None
        print(
            f"{form:<12}{median[form]:>10.2f}{f'{low:.2f}-{high:.2f}':>16}{2 / median[form]:>11.2f}{peak[form] / 1e6:>9.0f}"
            + (f"{work['flops'] / 1e12:>8.3f}{share:>9.0%}" if work else f"{'':>17}")
            + f"{steps[form][0]['loss']:>12.6f}"
        )
    for form, work in profiles.items():
        print(
            f"\n{form}: {work['matmul_flops_a_second'] / 1e9:.0f} GFLOP/s in a large {work['dtype']} matmul; the step's time by operator:"
        )
        for name, part in work["operators"]:
            print(f"  {part:>5.1%}  {name}")
    if set(steps) != set(FORMS):
        return 0
    result: dict[str, Any] = {"benchmark": "train"}
    for plain in ("published", "tuned"):
        for form, suffix in (("ours", ""), ("store", "_store"), ("store_bf16", "_store_bf16")):
            result[f"vs_{plain}{suffix}"] = round(median[plain] / median[form], 2)
    result["peak_memory_ratio"] = round(max(peak["ours"], peak["store"], peak["store_bf16"]) / peak["published"], 3)
    losses = {form: [step["loss"] for step in steps[form]] for form in ("published", "tuned", "ours", "store")}
    result["loss_difference"] = max(
        abs(a - b) for form in ("ours", "store") for a, b in zip(losses[form], losses["published"], strict=True)
    )
    result |= {f"{form}_seconds": round(value, 3) for form, value in median.items()}
    missed = [f"{key} {result[key]} of {bar}" for key, bar in BARS.items() if result[key] < bar]
    if result["peak_memory_ratio"] > MOST_MEMORY:
        missed.append(f"peak_memory_ratio {result['peak_memory_ratio']}, at most {MOST_MEMORY}")
    if result["loss_difference"] > MOST_DIFFERENCE:
        missed.append(f"loss_difference {result['loss_difference']:.1e}, at most {MOST_DIFFERENCE}")
    print("\nevery bar is met" if not missed else "\nmissed: " + "; ".join(missed))
    print(json.dumps(result | {"missed": missed}))
    return 1 if missed else 0


@contextlib.contextmanager
def child(form: str, folder: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A form in a process of its own; `ask("step")` lets it take one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--form", form, "--project", str(folder / ("bf16" if form == "store_bf16" else "fp32"))]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def ask(what: str) -> dict[str, Any]:
            assert process.stdin
            assert process.stdout
            print(what, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                sys.exit(f"{form} has ended; its error is printed above")
            return json.loads(answer)

        try:
            ask("ready")
            yield ask
        finally:
            process.stdin.close()


def serve(form: str, project: Path) -> int:
    """Answer the parent's requests, one JSON line each."""
    import torch

    os.chdir(project)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    step = plain_form(form) if form in ("published", "tuned") else our_form(form)
    for request in sys.stdin:
        answer: dict[str, Any] = {}
        if request.strip() == "step":
            began = time.perf_counter()
            answer["loss"] = step()
            answer["seconds"] = time.perf_counter() - began
        elif request.strip() == "peak":
            answer["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        elif request.strip() == "profile":
            dtype = torch.bfloat16 if form.endswith("bf16") else torch.float32
            answer = profile(step) | {"matmul_flops_a_second": matmul_peak(dtype), "dtype": str(dtype).removeprefix("torch.")}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def our_form(form: str) -> Callable[[], float]:
    """The step of `pllava.stages.train`; from the store the batch is read inside the clock, from pixels it is there before."""
    from accelerate import Accelerator

    from pllava.core.params import load_params
    from pllava.stages.train.loop import Trainer, be_deterministic

    params = load_params()
    if form == "ours":
        params = params.model_copy(update={"features": params.features.model_copy(update={"enabled": False})})
    be_deterministic(params)
    trainer = Trainer(params, Accelerator(cpu=True, mixed_precision=params.train.mixed_precision))
    trainer.model.train()

    def batch() -> dict[str, Any]:
        return trainer.inputs.collator([trainer.inputs.data["train"][row, 0] for row in range(params.train.batch_size)])

    ready = batch() if form == "ours" else None

    def step() -> float:
        loss, _ = trainer._step([ready or batch()])
        return float(loss)

    return step


def plain_form(form: str) -> Callable[[], float]:
    """The published step, written down plainly."""
    import torch
    from torch.nn.functional import adaptive_avg_pool3d, cross_entropy

    import pllava
    from pllava.artifacts.manifest import PREPARED, read_manifest
    from pllava.artifacts.pixels import Pixels
    from pllava.chat.conversation import IGNORE
    from pllava.chat.template import load_template
    from pllava.core.params import load_params
    from pllava.model.adapter import add_lora
    from pllava.stages.train.dataset import InstructionDataset
    from pllava.stages.train.optimizer import adamw

    params = load_params()
    settings = params.model
    torch.set_num_threads(THREADS)
    model, processor = pllava.load(
        settings.base,
        num_frames=settings.num_frames,
        pooling_shape=settings.pooling_shape,
        attn_implementation="eager" if form == "published" else "sdpa",
    )
    wrapped = add_lora(model, params.train.lora, params.seed)
    optimizer = adamw(wrapped, 0.0, params.train.weight_decay)
    tower, projector, language_model = model.model.vision_tower, model.model.multi_modal_projector, model.model.language_model
    projector = projector.modules_to_save["default"]
    wrapped.train()
    if form == "published":
        language_model.gradient_checkpointing_enable({"use_reentrant": False})
    pixels = Pixels(processor, settings.num_frames, params.train.sampling, params.seed)
    rows = read_manifest(PREPARED / "train.parquet")
    data = InstructionDataset(rows, pixels, processor.tokenizer, load_template(settings.template), TEXT, params.seed, True)
    samples = [data[row, 0] for row in range(params.train.batch_size)]
    image, pad, visual = processor.image_token_id, processor.tokenizer.pad_token_id, processor.num_visual_tokens
    ids = torch.full((len(samples), TEXT), pad)
    labels = torch.full((len(samples), TEXT), IGNORE)
    for number, sample in enumerate(samples):
        ids[number, : len(sample.input_ids)] = torch.tensor(sample.input_ids)
        labels[number, : len(sample.labels)] = torch.tensor(sample.labels)
    clips = torch.stack([sample.vision for sample in samples])  # [B, T, 3, H, W]
    grid, frames = model.config.patch_grid, settings.num_frames

    def step() -> float:
        with torch.no_grad():
            hidden = tower(clips.flatten(0, 1), output_hidden_states=True).hidden_states[-2][:, 1:]
        tokens = projector.linear_2(projector.act(projector.linear_1(hidden)))  # [B * T, P, D]
        tokens = tokens.unflatten(0, (len(samples), frames)).unflatten(2, grid).permute(0, 4, 1, 2, 3)
        tokens = adaptive_avg_pool3d(tokens, settings.pooling_shape).flatten(2).transpose(1, 2)  # [B, N, D]
        embedded = model.get_input_embeddings()(ids)
        merged, merged_labels, mask = [], [], []
        for number in range(len(samples)):
            place = int((ids[number] == image).nonzero()[0])
            merged.append(torch.cat([embedded[number, :place], tokens[number], embedded[number, place + 1 :]]))
            ignored = torch.full((visual,), IGNORE)
            merged_labels.append(torch.cat([labels[number, :place], ignored, labels[number, place + 1 :]]))
            real = (ids[number] != pad).long()
            mask.append(torch.cat([real[:place], torch.ones(visual, dtype=torch.long), real[place + 1 :]]))
        output = language_model(inputs_embeds=torch.stack(merged), attention_mask=torch.stack(mask), use_cache=False)
        logits = model.lm_head(output.last_hidden_state).float()  # [B, 2815, vocabulary]
        targets = torch.stack(merged_labels)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in wrapped.parameters() if p.requires_grad], params.train.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = params.train.learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


def matmul_peak(dtype: Any, size: int = 2048) -> float:
    """FLOP/s of a large square product, the best of several."""
    import torch

    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def profile(step: Callable[[], float], shown: int = 10) -> dict[str, Any]:
    """FLOPs of a step (matrix products and attention, causal halves not counted), and its time by operator.

    What is recomputed in the backward pass is counted, so this is the share of the peak the machine works at, not that of a step without
    recomputation. Tower pieces run in threads neither counter sees: `ours` counts the language model and projector alone.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, dropout: float = 0.0, is_causal: bool = False, *rest: Any, **named: Any) -> int:
        return sdpa_flop_count(query, key, value) // (2 if is_causal else 1)

    def backward(grad: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, dropout: float, is_causal: bool, **named: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value) // (2 if is_causal else 1)

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    with counter:
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    operators = [(event.key, event.self_cpu_time_total / total) for event in events[:shown]]
    return {"flops": counter.get_total_flops(), "operators": operators}


def write_projects(folder: Path) -> None:
    """Two project folders with the mid base, clips, manifests and features: fp32 and bf16."""
    import torch

    from pllava.core.params import Params
    from pllava.stages.features.run import features
    from pllava.stages.prepare.run import prepare

    torch.set_num_threads(THREADS)
    write_base(folder / "base")
    for name, mixed, stored in (("fp32", "no", "float32"), ("bf16", "bf16", "bfloat16")):
        project = folder / name
        for split, count in (("train", 2), ("test", 1)):
            for number in range(count):
                write_clip(project / "videos" / split / f"{number}.mp4", seed=number + 10 * (split == "test"))
        words = "The person in the picture takes a cup from the table, turns around and walks to the door."
        instruction = "Watch the video closely and answer."
        rows = [
            {"video": f"train/{n}.mp4", "QA": [{"i": instruction, "q": "What happens?", "a": f"{words[: 60 + 10 * n]}"}]} for n in range(2)
        ]
        (project / "train.json").write_text(json.dumps(rows))
        (project / "MVBench/json").mkdir(parents=True)
        question = {"video": "0.mp4", "question": "Which?", "candidates": ["One.", "Two."], "answer": "One."}
        (project / "MVBench/json/task.json").write_text(json.dumps([question]))
        (project / "MVBench/video").mkdir()
        (project / "videos/test").rename(project / "MVBench/video/task")
        values = {
            "seed": 3,
            "data": {"train": [{"name": "mid", "annotations": "train.json", "media": "videos"}]},
            "model": {
                "base": str(folder / "base"),
                "num_frames": 16,
                "pooling_shape": [16, 12, 12],
                "template": "tiny",
                "dtype": "float32",
            },
            "features": {"enabled": True, "dtype": stored},
            "train": {
                "steps": 100,
                "batch_size": 2,
                "learning_rate": 2e-5,
                "sampling": "middle",
                "mixed_precision": mixed,
                "threads": THREADS,
                "packing": True,
                "gradient_checkpointing": "blocks",
                "lora": {"r": 128, "alpha": 32, "dropout": 0.0},
            },
            "evaluate": {"benchmarks": {"mvbench": {"root": "MVBench", "template": "tiny_mvbench"}}},
        }
        (project / "params.yaml").write_text(json.dumps(values))  # JSON is YAML
        with contextlib.chdir(project):
            params = Params.model_validate(values)
            prepare(params)
            features(params)


def write_clip(path: Path, seed: int, size: int = 336, frames: int = 32) -> None:
    """A bright square that moves over noise."""
    import av
    import numpy as np

    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = rng.integers(0, 120, (size, size, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"threads": "1", "preset": "ultrafast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            image = ground.copy()
            left = (seed * 40 + index * 6) % (size - 60)
            image[100:160, left : left + 60] = (220, 80 + seed % 150, 40)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


if __name__ == "__main__":
    sys.exit(main())
