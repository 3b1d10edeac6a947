"""Test sets of one's own: `add_test_set("kitchen", "test.jsonl", "videos/")` checks one, tracks it with DVC and makes it a benchmark.

The set lies in one folder: a file of questions beside `media/`, or MVBench's layout (pllava/benchmarks/own_test_set.py). When a step fails,
all files are restored.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from pllava.benchmarks.benchmark import Sample, load_benchmark
from pllava.benchmarks.own_test_set import MEDIA
from pllava.core.errors import PllavaError
from pllava.core.params import PARAMS_FILE, Params, load_params
from pllava.corpora.add import RAW, bring_into_project, ensure_tracked, require_source
from pllava.corpora.entries import with_benchmark, with_dependencies, without_benchmark, without_dependencies
from pllava.corpora.project import DVC_FILE, read_dvc_yaml, rewrite, validated
from pllava.corpora.tracking import is_url, untrack
from pllava.corpora.undo import Undo, recover
from pllava.stages.prepare.media import WHOLE
from pllava.stages.prepare.media_checks import MediaChecks
from pllava.stages.prepare.run import STATE

NAME = re.compile(r"[A-Za-z0-9_]+")
SET = "test"  # folder of data/raw/<name>/: a corpus of the same name has files beside it
EXAMPLES = 5  # unusable clips that an error shows


def add_test_set(name: str, annotations: str, media: str | None = None, params_file: str | Path = PARAMS_FILE) -> list[str]:
    """Add the test set to evaluate.benchmarks; returns lines about it.

    annotations: a file of questions, with `media` as the folder of their clips, or a folder in MVBench's layout. Raises PllavaError for a
    wrong row, and for more unreadable clips than data.max_bad_fraction allows.
    """
    params_file = Path(params_file)
    recover()
    params, dvc_text = load_params(params_file), read_dvc_yaml()
    if not NAME.fullmatch(name):
        raise PllavaError(f"{name!r} cannot name a test set: letters, digits and underscores are needed, a DVC stage bears the name")
    if name in params.evaluate.benchmarks:
        raise PllavaError(f"evaluate.benchmarks has {name!r} already. Take another name, or first: pllava data remove {name} --split test")
    whole = not is_url(annotations) and Path(annotations).is_dir()
    if whole == (media is not None):
        needed = "a folder in MVBench's layout takes no --media" if whole else "--media is needed, the folder of the clips"
        raise PllavaError(f"test set {name!r}, --annotations {annotations}: {needed} (docs/your-data.md)")
    with Undo() as undo:
        undo.keep(RAW / name)
        root, paths = _whole(name, annotations, undo) if media is None else _files(name, annotations, media, undo)
        samples = load_benchmark(name).samples(root)
        _require_readable(name, samples, params)
        tracked = {path.as_posix(): ensure_tracked(path, undo) for path in paths}
        undo.keep(DVC_FILE)
        undo.keep(params_file)
        rewrite(DVC_FILE, with_dependencies(dvc_text, [root.as_posix()]))
        text = with_benchmark(params_file.read_text(), name, {"root": root.as_posix(), **_asked_like(params)})
        rewrite(params_file, validated(text, params_file))
    return [_summary(name, samples), *(f"{path}: tracked by {tracker}" for path, tracker in tracked.items())]


def check_test_set(name: str, params: Params) -> str:
    """Check questions and clips again; returns a line about them. Raises PllavaError when too many clips can't be read."""
    settings = params.evaluate.benchmarks[name]
    samples = load_benchmark(name, settings.source).samples(settings.root)
    _require_readable(name, samples, params)
    return _summary(name, samples)


def remove_test_set(name: str, delete: bool = False, params_file: str | Path = PARAMS_FILE) -> list[str]:
    """Take a benchmark out of params.yaml, and what `add_test_set` tracked out of DVC; the files stay unless `delete`."""
    params_file = Path(params_file)
    recover()
    params = load_params(params_file)
    root = params.evaluate.benchmarks[name].root
    with Undo() as undo:
        for file in (params_file, DVC_FILE):
            undo.keep(file)
        rewrite(params_file, validated(without_benchmark(params_file.read_text(), name), params_file))
        rewrite(DVC_FILE, without_dependencies(read_dvc_yaml(), [root.as_posix()]))
        done = [f"{params_file}: {name} is no longer in evaluate.benchmarks"]
        used = [benchmark.root for other, benchmark in params.evaluate.benchmarks.items() if other != name]
        used += [path for corpus in (*params.data.train, *params.data.validation) for path in (corpus.annotations, corpus.media)]
        for dvc_file in [Path(f"{root}.dvc"), *sorted(root.glob("*.dvc"))]:
            path = dvc_file.with_suffix("")
            if dvc_file.exists() and not any(other.is_relative_to(path) for other in used if other != Path()):
                undo.keep(dvc_file)
                undo.keep(path.parent / ".gitignore")
                untrack(path, delete)
                done.append(f"{path}: no longer tracked by DVC, {'deleted' if delete else 'the files stay'}")
    return done


def _whole(name: str, folder: str, undo: Undo) -> tuple[Path, list[Path]]:
    path = Path(folder).resolve()
    inside = path.is_relative_to(Path.cwd())
    root = path.relative_to(Path.cwd()) if inside else bring_into_project(name, SET, folder, undo, folder=True)
    return root, [root]


def _files(name: str, annotations: str, media: str, undo: Undo) -> tuple[Path, list[Path]]:
    """(root, [annotation file, media folder]) in the project, copied to data/raw/<name>/test/ unless `media/` is beside the file."""
    for key, source in (("annotations", annotations), ("media", media)):
        require_source(source, folder=key == "media")
    file, folder = Path(annotations).resolve(), Path(media).resolve()
    if not is_url(annotations) and not is_url(media) and folder == file.parent / MEDIA and file.is_relative_to(Path.cwd() / "data"):
        return file.parent.relative_to(Path.cwd()), [path.relative_to(Path.cwd()) for path in (file, folder)]
    questions = f"{SET}/questions{'.json' if annotations.lower().split('?')[0].endswith('.json') else '.jsonl'}"
    paths = [
        bring_into_project(name, target, source, undo, folder=is_folder, copy=True)
        for target, source, is_folder in ((questions, annotations, False), (f"{SET}/{MEDIA}", media, True))
    ]
    return RAW / name / SET, paths


def _require_readable(name: str, samples: list[Sample], params: Params) -> None:
    clips = sorted({sample.media.as_posix() for sample in samples})
    with MediaChecks(STATE, params.data.workers) as checks:
        reports = checks.reports({clip: [WHOLE] for clip in clips})
    problems = {clip: problem[1] for clip in clips if (problem := reports[clip].problem_of(WHOLE))}
    problems |= {
        sample.id: f"the answer {sample.answer!r} is none of the options" for sample in samples if sample.answer not in sample.candidates
    }
    bad = [sample for sample in samples if sample.media.as_posix() in problems or sample.id in problems]
    if not samples or len(bad) > params.data.max_bad_fraction * len(samples):
        lines = "\n".join(f"  {item}: {problem}" for item, problem in list(problems.items())[:EXAMPLES])
        raise PllavaError(
            f"{name}: {len(bad)} of {len(samples)} question(s) cannot be used, data.max_bad_fraction allows "
            f"{params.data.max_bad_fraction:.1%}\n{lines}\nMend them, then repeat the command"
        )


def _summary(name: str, samples: list[Sample]) -> str:
    tasks = Counter(sample.task for sample in samples)
    clips, chance = len({sample.media for sample in samples}), sum(sample.chance for sample in samples) / len(samples)
    return (
        f"{name}: {len(samples)} question(s) about {clips} clip(s), a guess is right in {chance:.0%}: "
        f"{', '.join(f'{task} {count}' for task, count in tasks.items())}"
    )


def _asked_like(params: Params) -> dict[str, str | int]:
    """Template and length of the answers: MVBench's of params.yaml, or those that fit the model's template."""
    if settings := params.evaluate.benchmarks.get("mvbench"):
        return {"template": settings.template, "max_new_tokens": settings.max_new_tokens}
    by_model = {"tiny": "tiny_mvbench", "yi": "eval_mvbench_llavanext"}
    return {
        "template": by_model.get(params.model.template, "eval_mvbench"),
        "max_new_tokens": 12 if params.model.template == "tiny" else 100,
    }
