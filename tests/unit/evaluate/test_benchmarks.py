"""Each benchmark in its published layout: what is read, what is asked, what is scored, from the files to the metrics."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from layouts import PUBLISHED, VIDEO_QA, write_json, write_layout

from pllava.benchmarks.benchmark import load_benchmark
from pllava.benchmarks.io import MediaIndex
from pllava.benchmarks.mvbench import TASKS
from pllava.chat import load_template
from pllava.core.errors import PllavaError
from pllava.core.params import Benchmark, Params, load_params
from pllava.stages.evaluate.run import evaluate
from pllava.tracking import runs as tracking
from pllava.video.reader import read_video

PROJECT = Path(__file__).parents[3]
TEMPLATES = {"mvbench": "eval_mvbench", "vcgbench": "eval_vcgbench", "recaption": "eval_recaption"}
QUESTIONS = {"mvbench": 40, "vcgbench": 5, "recaption": 2} | dict.fromkeys(VIDEO_QA, 6)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_layout(name, tmp_path_factory.mktemp(name) / "data") for name in PUBLISHED}


@pytest.fixture
def project(evaluation_project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    monkeypatch.chdir(evaluation_project)
    monkeypatch.setattr(tracking, "later_stage", lambda params: nullcontext(tracking.Run(None, None)))
    for name in ("BASE_URL", "MODEL", "API_KEY"):
        monkeypatch.delenv(f"PLLAVA_JUDGE_{name}", raising=False)
    yield load_params("params.yaml")
    for folder in ("outputs/evaluate", "outputs/limited", "outputs/evaluation_runs", "metrics", ".state"):
        shutil.rmtree(folder, ignore_errors=True)


def with_benchmark(params: Params, name: str, **settings: object) -> Params:
    benchmarks = {name: Benchmark.model_validate(settings)}
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"benchmarks": benchmarks, "bootstrap_resamples": 100})})


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_sample_has_its_clip_and_fits_the_published_template(name: str, roots: dict[str, Path]):
    benchmark = load_benchmark(name)
    samples = benchmark.samples(roots[name])
    assert len(samples) == QUESTIONS[name]
    assert len({sample.id for sample in samples}) == len(samples)
    template = load_template(TEMPLATES.get(name, "eval_videoqabench"))
    for sample in samples:
        assert re.fullmatch(r"\w+/\d+", sample.id)
        assert len(read_video(sample.media, 4, benchmark.frame_rule, sample.start, sample.end).frames) == 4
        assert template.prompt_for(benchmark.prompt(sample)).count("<image>") == 1
    assert [s.id for s in benchmark.samples(roots[name], limit=1)] == [s.id for s in samples if re.search(r"/0+$", s.id)]


def test_the_twenty_tasks_of_mvbench(roots: dict[str, Path]):
    samples = load_benchmark("mvbench").samples(roots["mvbench"])
    assert list(dict.fromkeys(sample.task for sample in samples)) == [name for name, _, _ in TASKS.values()]
    assert len(TASKS) == 20
    episodic = [sample for sample in samples if sample.task == "Episodic Reasoning"]
    assert all(sample.media.is_dir() and sample.end == 0.9 for sample in episodic)
    assert {sample.task for sample in samples if sample.start is not None} == {name for name, _, bounded in TASKS.values() if bounded}


@pytest.mark.parametrize("name", VIDEO_QA)
def test_video_question_answering_sets(name: str, roots: dict[str, Path]):
    folder, prefix, suffix = VIDEO_QA[name]
    samples = load_benchmark(name).samples(roots[name])
    assert [sample.media.name for sample in samples[:3]] == [f"{prefix}{clip}{suffix}" for clip in ("clipA", "clip.B", "clipC")]
    assert [sample.answer for sample in samples[:3]] == ["a square", "noise", "right"]
    alone = load_benchmark(name).samples(roots[name] / folder)  # the set's own folder is a root, too
    assert [sample.id for sample in alone] == [sample.id for sample in samples]


def test_answers_of_another_release_are_refused(tmp_path: Path):
    write_json(tmp_path / "test_q.json", [{"video_name": "a", "question": "q", "question_id": 1}])
    write_json(tmp_path / "test_a.json", [{"answer": "x", "question_id": 2}])
    with pytest.raises(PllavaError, match=r"entry 0 is question 1 in test_q\.json, 2 in test_a\.json"):
        load_benchmark("msvd_qa").samples(tmp_path)
    write_json(tmp_path / "test_a.json", [])
    with pytest.raises(PllavaError, match=r"1 entries, test_a\.json 0"):
        load_benchmark("msvd_qa").samples(tmp_path)
    write_json(tmp_path / "test_q.json", [{"video_name": "a"}])
    with pytest.raises(PllavaError, match=r"test_q\.json\[0\]: no question"):
        load_benchmark("msvd_qa").samples(tmp_path)
    with pytest.raises(PllavaError, match=r"generic_qa\.json is not there"):
        load_benchmark("vcgbench").samples(tmp_path)


def test_a_clip_in_two_formats_is_the_benchmarks_own(tmp_path: Path):
    for name in ("gifs/a.gif", "mp4/a.mp4", "b.mkv", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert MediaIndex(tmp_path, ".gif")["a"] == tmp_path / "gifs/a.gif"
    assert MediaIndex(tmp_path)["a"] == tmp_path / "mp4/a.mp4"
    assert MediaIndex(tmp_path)["b.mp4"] == tmp_path / "b.mkv"  # converted since
    assert not MediaIndex(tmp_path)["c"].exists()


def test_folders_in_a_name_tell_clips_of_one_name_apart(tmp_path: Path):
    for name in ("videos/day1/clip.mp4", "videos/day2/clip.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    media = MediaIndex(tmp_path)
    assert [media[name] for name in ("day1/clip.mp4", "day2/clip.mp4", "day2/clip")] == [
        tmp_path / "videos" / day / "clip.mp4" for day in ("day1", "day2", "day2")
    ]
    assert not media["day3/clip.mp4"].exists()  # another day's clip is no answer
    for name in ("/etc/passwd", "../clip.mp4"):
        with pytest.raises(PllavaError, match="leads out of"):
            media[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_from_files_to_metrics(name: str, roots: dict[str, Path], project: Params):
    template = TEMPLATES.get(name, "eval_videoqabench")
    path = evaluate(with_benchmark(project, name, root=roots[name], template=template, max_new_tokens=3), name)
    found = json.loads(path.read_text())
    rows = [json.loads(line) for line in Path("outputs/evaluate", name, "results.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * QUESTIONS[name]
    assert not found["provenance"]["unreadable"]
    for model in ("base", "single_frame", "adapted"):
        entry = found["models"][model]
        for cell in (entry["average"], *entry["tasks"].values()):
            assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
    judge = found["provenance"]["judge"]
    if name == "mvbench":
        assert judge is None
        assert set(found["models"]["base"]["tasks"]) == {title for title, _, _ in TASKS.values()}
    else:  # nobody may take word overlap for a judge's verdict
        assert judge["kind"] == "offline"
        assert "offline scorer" in judge["name"]
        assert all("f1" in cell and "score" not in cell for cell in found["models"]["base"]["tasks"].values())


def test_the_two_answers_of_a_consistency_entry_lie_beside_their_own_questions(roots: dict[str, Path], project: Params):
    """The published script swaps them."""
    evaluate(with_benchmark(project, "vcgbench", root=roots["vcgbench"], template="eval_vcgbench", max_new_tokens=6), "vcgbench")
    rows = [json.loads(line) for line in Path("outputs/evaluate/vcgbench/results.jsonl").read_text().splitlines()]
    (pair,) = [row for row in rows if row["task"] == "consistency" and row["model"] == "adapted"]
    import pllava

    settings = {"num_frames": 4, "pooling_shape": (4, 2, 2), "dtype": "float32"}
    model, processor = pllava.load("base", adapter="outputs/train/adapter", **settings)
    video = pllava.VideoChat(model, processor, template="eval_vcgbench").watch(roots["vcgbench"] / pair["media"])
    assert pair["prediction"] == video.ask("What moves?", max_new_tokens=6).text
    assert pair["second_prediction"] == video.ask("Which thing does not stay where it is?", max_new_tokens=6).text
    dimensions = {row["task"]: set(row["scores"]) for row in rows}
    assert dimensions["generic"] == {"Correctness of Information", "Detail Orientation", "Contextual Understanding"}
    assert dimensions["temporal"] == {"Temporal Understanding"}
    assert dimensions["consistency"] == {"Consistency"}


def test_a_caption_without_a_truth_is_kept_unscored(roots: dict[str, Path], project: Params):
    path = evaluate(with_benchmark(project, "recaption", root=roots["recaption"], template="eval_recaption", max_new_tokens=3), "recaption")
    rows = [json.loads(line) for line in Path("outputs/evaluate/recaption/results.jsonl").read_text().splitlines()]
    assert [(row["id"], row["correct"] is None, row["scores"] == {}) for row in rows[2:4]] == [
        ("Inter4K/00000", False, False),
        ("Inter4K/00001", True, True),
    ]
    assert json.loads(path.read_text())["models"]["base"]["tasks"]["Inter4K"]["n"] == 1


def test_ones_own_benchmark_is_the_example_of_the_documentation(tmp_path: Path, project: Params):
    """The code block of docs/evaluation.md, copied as a reader would."""
    text = (PROJECT / "docs/evaluation.md").read_text()
    (code,) = re.findall(r"```python\n(# counting\.py\n.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 30
    source = tmp_path / "counting.py"
    source.write_text(code)
    (tmp_path / "data").mkdir()
    from layouts import write_clip

    write_clip(tmp_path / "data" / "a.mp4", seed=0)
    (tmp_path / "data" / "questions.csv").write_text("video,question,count\na.mp4,How many squares?,1\na.mp4,How many circles?,0\n")
    benchmark = load_benchmark("counting", source)
    first, *_ = benchmark.samples(tmp_path / "data")
    row = {"task": first.task, "answer": "1", "prediction": "There is 1 square."}
    assert next(iter(benchmark.score(row, None).values())).correct is True
    assert next(iter(benchmark.score(row | {"prediction": "None"}, None).values())).correct is False
    settings = {"root": tmp_path / "data", "template": "vicuna", "max_new_tokens": 3, "source": source}
    found = json.loads(evaluate(with_benchmark(project, "counting", **settings), "counting").read_text())
    assert found["models"]["adapted"]["tasks"]["counting"]["n"] == 2
    assert found["provenance"]["source_sha256"]


def test_an_unknown_name_is_refused_with_the_nearest(project: Params):
    values = project.model_dump(mode="json")
    values["evaluate"]["benchmarks"] = {"msvdqa": {"root": "x", "template": "vicuna"}}
    Path("wrong.yaml").write_text(json.dumps(values))
    with pytest.raises(PllavaError, match="did you mean 'msvd_qa'"):
        load_params("wrong.yaml")
    Path("wrong.yaml").unlink()


def test_a_limited_run_leaves_the_stages_outputs_alone(roots: dict[str, Path], project: Params):
    params = with_benchmark(project, "mvbench", root=roots["mvbench"], template="eval_mvbench", max_new_tokens=3)
    path = evaluate(params, "mvbench", limit=1)
    assert path == Path("outputs/limited/mvbench/metrics.json")
    assert not Path("metrics").exists()
    assert not Path("outputs/evaluate").exists()
    found = json.loads(path.read_text())["provenance"]
    assert (found["n_questions"], found["limit"]) == (20, 1)
