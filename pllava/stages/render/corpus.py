"""The built-in corpus, `pllava render`: instruction data in the format of VideoChat2-IT, evaluation data in the format of MVBench.

Later stages do not know that the clips are rendered. Every file is a function of `seed` and the `rendered` section of params.yaml.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pllava.core.files import atomic_dir, write_json
from pllava.core.params import Params, Rendered
from pllava.core.signals import end_with_parent
from pllava.stages.render.clip import THEMES, Clip, random_clip
from pllava.stages.render.questions import CAPTION_REQUESTS, TASKS, Question, caption, questions
from pllava.stages.render.video_writer import write_mp4

Sample = dict[str, object]


def render(params: Params) -> Path:
    """Write instruction/{train,validation}.json, MVBench/json/<task>.json and their videos; returns the corpus folder.

    With `rendered.enabled: false` the folder holds only corpus.json, so that the pipeline has the same stages for every recipe.
    """
    settings = params.rendered
    with atomic_dir(settings.root) as root:
        if not settings.enabled:
            write_json(root / "corpus.json", {"enabled": False})
            return settings.root
        counts: dict[str, object] = {}
        for split, size in (("train", settings.instruction_clips), ("validation", settings.validation_clips)):
            counts[split] = _write_instruction(root, split, size, params.seed, settings)
        counts["test"] = _write_mvbench(root, params.seed, settings)
        write_json(
            root / "corpus.json", {"enabled": True, "seed": params.seed, "settings": settings.model_dump(mode="json"), "counts": counts}
        )
    return settings.root


def instruction_qa(clip: Clip, rng: random.Random) -> list[dict[str, str]]:
    """A conversation about one clip, as `QA` of VideoChat2-IT: its questions, open and as multiple choice, and the dense caption."""
    turns = []
    for question in questions(clip, rng):
        for as_choice in (True, False):
            if rng.random() < 0.75:
                text, answer = question.shuffled(rng).multiple_choice() if as_choice else (question.text, question.answer)
                turns.append({"i": "", "q": text, "a": answer})
    rng.shuffle(turns)
    turns.insert(rng.randint(0, min(2, len(turns))), {"i": "", "q": rng.choice(CAPTION_REQUESTS), "a": caption(clip)})
    return turns


def _write_instruction(root: Path, split: str, size: int, seed: int, settings: Rendered) -> int:
    folder = root / "videos" / split
    folder.mkdir(parents=True)
    jobs, rows = [], []
    for index in range(size):
        name = f"{split}/{index:05d}.mp4"
        rng = random.Random(f"{seed}/{name}")
        clip = random_clip(rng, THEMES[index % len(THEMES)])
        jobs.append((clip, root / "videos" / name))
        rows.append({"video": name, "QA": instruction_qa(clip, rng)})
    _write_videos(jobs, settings)
    (root / "instruction").mkdir(exist_ok=True)
    (root / "instruction" / f"{split}.json").write_text(json.dumps(rows, indent=1) + "\n")
    return size


def _write_mvbench(root: Path, seed: int, settings: Rendered) -> dict[str, dict[str, int]]:
    counts, jobs = {}, []
    for task, theme in TASKS.items():
        stem = task.lower().replace(" ", "_")
        folder = root / "MVBench" / "video" / stem
        folder.mkdir(parents=True)
        samples: list[Sample] = []
        answers: Counter[str] = Counter()
        attempt = 0
        while len(samples) < settings.test_clips_per_task:
            name = f"{stem}_{len(samples):04d}.mp4"
            rng = random.Random(f"{seed}/test/{stem}/{attempt}")
            attempt += 1
            clip = random_clip(rng, theme)
            question = _balanced(task, clip, rng, answers, settings.test_clips_per_task)
            if question is None:
                continue
            answers[question.answer] += 1
            samples.append({"video": name, "question": question.text, "candidates": list(question.options), "answer": question.answer})
            jobs.append((clip, folder / name))
        path = root / "MVBench" / "json" / f"{stem}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(samples, indent=1) + "\n")
        counts[task] = dict(sorted(answers.items()))
    _write_videos(jobs, settings)
    return counts


def _balanced(task: str, clip: Clip, rng: random.Random, answers: Counter[str], size: int) -> Question | None:
    """A question of this task, with shuffled options, whose answer is not yet right more often than its share of `size`; None without one.

    answers: how often each answer is already the right one.
    """
    candidates = [question for question in questions(clip, rng) if question.task == task]
    rng.shuffle(candidates)
    closed = {
        "Moving Direction",
        "Moving Count",
        "Action Sequence",
        "Action Count",
        "State Change",
        "Action Localization",
        "Object Existence",
    }
    for question in candidates:
        num_answers = len(question.options) if task in closed else 1
        if answers[question.answer] < -(-size // num_answers):
            return question.shuffled(rng)
    return None


def _write_videos(jobs: list[tuple[Clip, Path]], settings: Rendered) -> None:
    with ProcessPoolExecutor(max_workers=2, initializer=end_with_parent) as pool:
        list(pool.map(_write_video, [(clip, path, settings.num_frames, settings.size, settings.fps) for clip, path in jobs], chunksize=32))


def _write_video(job: tuple[Clip, Path, int, int, int]) -> None:
    clip, path, num_frames, size, fps = job
    write_mp4(path, clip.frames(num_frames, size), fps)
