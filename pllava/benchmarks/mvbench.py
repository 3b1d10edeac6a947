"""MVBench (arXiv 2311.17005): `python -c "from pllava.benchmarks.mvbench import load_samples; print(load_samples('DATA/MVBench')[0])"`.

Layout under a data root, as published: `json/<task>.json`, a list of `{video, question, candidates, answer, start?, end?}`, and
the media in `video/<folder>/<video>`. The published tasks share folders (table below). If a task is not in the table, or its folder of the
table is not on disk, the folder has the name of the JSON file. So any benchmark of this layout can be read without code. Only tasks with a
JSON file are evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

from pllava.benchmarks.benchmark import Benchmark, Sample, Score
from pllava.benchmarks.io import media_sha256
from pllava.benchmarks.letter_match import LETTERS, format_question, score
from pllava.core.errors import PllavaError
from pllava.core.files import read_json

if TYPE_CHECKING:
    from pllava.benchmarks.judge import Judge

__all__ = ["BENCHMARK", "Sample", "format_question", "load_samples", "media_sha256", "score", "task_name"]

LONGEST_SECONDS = 1e9  # of a bound; no clip is longer
# JSON stem -> (task name, folder under video/, start and end are used), in the order of the published table
TASKS: dict[str, tuple[str, str, bool]] = {
    "action_sequence": ("Action Sequence", "star/Charades_v1_480", True),
    "action_prediction": ("Action Prediction", "star/Charades_v1_480", True),
    "action_antonym": ("Action Antonym", "ssv2_video", False),
    "fine_grained_action": ("Fine-grained Action", "Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("Unexpected Action", "FunQA_test/test", False),
    "object_existence": ("Object Existence", "clevrer/video_validation", False),
    "object_interaction": ("Object Interaction", "star/Charades_v1_480", True),
    "object_shuffle": ("Object Shuffle", "perception/videos", False),
    "moving_direction": ("Moving Direction", "clevrer/video_validation", False),
    "action_localization": ("Action Localization", "sta/sta_video", True),
    "scene_transition": ("Scene Transition", "scene_qa/video", False),
    "action_count": ("Action Count", "perception/videos", False),
    "moving_count": ("Moving Count", "clevrer/video_validation", False),
    "moving_attribute": ("Moving Attribute", "clevrer/video_validation", False),
    "state_change": ("State Change", "perception/videos", False),
    "fine_grained_pose": ("Fine-grained Pose", "nturgbd", False),
    "character_order": ("Character Order", "perception/videos", False),
    "egocentric_navigation": ("Egocentric Navigation", "vlnqa", False),
    "episodic_reasoning": ("Episodic Reasoning", "tvqa/frames_fps3_hq", True),  # folders of numbered JPEGs, 3 a second
    "counterfactual_inference": ("Counterfactual Inference", "clevrer/video_validation", False),
}

STILL_TASKS = ("Object Existence",)  # one frame can be enough; the other tasks need several frames


def task_name(stem: str) -> str:
    """Published name of a task; for an unpublished task, the file's stem in title case: `moving_direction` -> `Moving Direction`."""
    return TASKS[stem][0] if stem in TASKS else stem.replace("_", " ").title()


def load_samples(root: str | Path, limit: int | None = None) -> list[Sample]:
    """Every question under `root`, in the order of the published tasks, then by file name. `limit`: only the first so many of each task.

    Raises PllavaError if there is no task, if a task's video folder is missing, or if an entry is wrong.
    Does not check single videos: evaluation counts the questions of a missing or unreadable video as wrong.
    """
    root = Path(root)
    files = annotation_files(root)
    order = {stem: index for index, stem in enumerate(TASKS)}
    return [sample for file in sorted(files, key=lambda f: (order.get(f.stem, len(TASKS)), f.stem)) for sample in _task(root, file)[:limit]]


def annotation_files(root: str | Path) -> list[Path]:
    """The `json/<task>.json` files under a data root, sorted. Raises PllavaError if there is none."""
    files = sorted(Path(root).glob("json/*.json"))
    if not files:
        raise PllavaError(
            f"{Path(root) / 'json'}: no <task>.json there. Point evaluate.benchmarks.mvbench.root in params.yaml to MVBench data"
        )
    return files


def _task(root: Path, file: Path) -> list[Sample]:
    folder, bounded = file.stem, True
    if file.stem in TASKS and (root / "video" / TASKS[file.stem][1]).is_dir():
        _, folder, bounded = TASKS[file.stem]
    media_root = root / "video" / folder
    if not media_root.is_dir():
        published = f" (or the published {root / 'video' / TASKS[file.stem][1]})" if file.stem in TASKS else ""
        raise PllavaError(
            f"{file}: its videos belong in {media_root}{published}, which is not there. Add the videos, or remove the JSON file"
        )
    entries = read_json(file)
    if not isinstance(entries, list):
        raise PllavaError(f"{file}: a JSON list is needed, found {type(entries).__name__}")
    paths: dict[str, Path] = {}  # questions about one clip share its path
    return [_sample(file, index, entry, media_root, bounded, paths) for index, entry in enumerate(entries)]


def _sample(file: Path, index: int, entry: Any, media_root: Path, bounded: bool, paths: dict[str, Path]) -> Sample:
    media, *values = sample_of(f"{file}[{index}]", entry, media_root, bounded)
    return Sample(f"{file.stem}/{index:04d}", task_name(file.stem), paths.setdefault(entry["video"], media), *values)


def sample_of(where: str, entry: Any, media_root: Path, bounded: bool = True) -> tuple[Any, ...]:
    """(media, start, end, question, candidates, answer) of one entry, as Sample takes them after its id and task.

    where: names the entry in errors. Raises PllavaError for an entry that lacks something.
    """
    missing = [key for key in ("video", "question", "candidates", "answer") if not isinstance(entry, dict) or key not in entry]
    if missing:
        raise PllavaError(f"{where}: no {', '.join(missing)}. Each entry needs video, question, candidates and answer")
    if not isinstance(entry["candidates"], list) or not 2 <= len(entry["candidates"]) <= len(LETTERS):
        raise PllavaError(f"{where}: candidates must be a list of 2 to {len(LETTERS)} options, found {short(entry['candidates'])}")
    video = entry["video"]
    if not isinstance(video, str) or not video or PurePosixPath(video).is_absolute() or ".." in PurePosixPath(video).parts:
        raise PllavaError(f"{where}: video is {short(video)}, the name of a file in {media_root} is needed")
    if not isinstance(entry["question"], str):
        raise PllavaError(f"{where}: question is {short(entry['question'])}, text is needed")
    for key in ("start", "end") if bounded else ():
        seconds = entry.get(key)
        if isinstance(seconds, bool) or not (seconds is None or (isinstance(seconds, int | float) and abs(seconds) < LONGEST_SECONDS)):
            raise PllavaError(f"{where}: {key} is {short(seconds)}, seconds or null are needed")
    if not str(entry["answer"]).strip():
        raise PllavaError(f"{where}: the answer is empty. It must be the text of one of the candidates")
    start, end = (entry.get("start"), entry.get("end")) if bounded else (None, None)
    candidates = tuple(str(candidate) for candidate in entry["candidates"])
    return media_root / video, start, end, entry["question"], candidates, str(entry["answer"])


class MVBench(Benchmark):
    title = "MVBench"

    def annotations(self, root: str | Path) -> list[Path]:
        return annotation_files(root)

    def samples(self, root: str | Path, limit: int | None = None) -> list[Sample]:
        return load_samples(root, limit)

    def prompt(self, sample: Sample) -> str:
        return format_question(sample.question, sample.candidates)

    def expected(self, sample: Sample) -> str:
        return sample.letter_answer

    def score(self, row: Mapping[str, Any], judge: Judge) -> dict[str, Score]:
        right = score(row["prediction"], row["answer"])
        return {row["task"]: Score(float(right), correct=right)}


BENCHMARK = MVBench()
