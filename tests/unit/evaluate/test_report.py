"""The report says what the results say, in equal bytes, and asks no server for anything."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from judge_server import Server, says
from layouts import write_layout

from pllava.artifacts.gallery_links import ADDRESS
from pllava.benchmarks.benchmark import load_benchmark
from pllava.benchmarks.judge import make_judge
from pllava.benchmarks.judge.offline import OfflineJudge
from pllava.benchmarks.mvbench import BENCHMARK
from pllava.core.errors import PllavaError
from pllava.core.files import write_json
from pllava.core.params import Benchmark, Params
from pllava.stages.evaluate import metrics
from pllava.stages.evaluate.run import write_scored
from pllava.stages.report.document import Document
from pllava.stages.report.run import report
from pllava.tracking import runs as tracking

OPTIONS = ["left", "right", "up", "down"]


@pytest.fixture
def project(tmp_path: Path, benchmark_root: Path, monkeypatch: pytest.MonkeyPatch):
    """A project folder after evaluation: the adapted model knows direction, one frame and the base guess; a clip is unreadable."""
    params = Params.model_validate(
        {
            "data": {"train": [{"name": "none", "annotations": "none.json", "media": "."}]},
            "model": {"base": "base", "num_frames": 8, "pooling_shape": [8, 3, 3]},
            "train": {"steps": 1, "batch_size": 1},
            "evaluate": {"benchmarks": {"mvbench": {"root": benchmark_root, "template": "tiny_mvbench"}}},
        }
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        tracking, "later_stage", lambda params: nullcontext(tracking.Run(None, None))
    )  # MLflow takes half a minute to be away
    rows = []
    for task, stem in (("Moving Direction", "moving_direction"), ("Object Existence", "object_existence")):
        for index in range(8):
            for model in ("base", "single_frame", "adapted"):
                right = index % 4 == 0 if model != "adapted" or stem == "object_existence" else index != 5
                broken = index == 7 and stem == "moving_direction"
                rows.append(
                    {
                        "model": model,
                        "id": f"{stem}/{index:04d}",
                        "task": task,
                        "media": f"video/moving_direction/{index if broken else index % 2}.mp4",
                        "start": None,
                        "end": None,
                        "question": "Which way does the <b>square</b> go?",
                        "candidates": OPTIONS,
                        "answer": "(A) left",
                        "prediction": "" if broken else "(A) left" if right else "(B) <script>alert(1)</script>|x",
                        "correct": right and not broken,
                        "error": "video/moving_direction/7.mp4: damaged" if broken else None,
                    }
                )
    Path("outputs/evaluate/mvbench").mkdir(parents=True)
    Path("outputs/evaluate/mvbench/results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    provenance = {"benchmark": "mvbench", "bootstrap_resamples": 300, "seed": 1, "template": "tiny_mvbench"}
    write_json(Path("metrics/mvbench.json"), metrics.build(rows, provenance, BENCHMARK, OfflineJudge()))
    Path("outputs/train").mkdir()
    history = [{"step": step, "loss": 100 / step, "lr": 1e-3, **({"val_loss": 1.0} if step == 60 else {})} for step in (20, 40, 60)]
    Path("outputs/train/history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return params


def test_report(project, tmp_path: Path):
    path = report(project)
    text = path.read_text()
    # 6 of 8 (one wrong, one unreadable) and 2 of 8: by hand
    assert "The adapted model answers 50.0 %" in text
    assert "a blind guess 25.0 %" in text
    assert "On the 1 tasks that one frame can't settle: 75.0 %" in text
    assert "Difference +50.0 points" in text
    assert "1 clips could not be read; their questions count as wrong: video/moving\\_direction/7.mp4" in text
    assert "Right with all frames, wrong with one (4 in all)" in text
    for image in ("accuracy_mvbench.png", "loss.png", "mvbench_moving_direction_0001.png"):
        assert f"({image})" in text
        assert (path.parent / image).read_bytes().startswith(b"\x89PNG")
    plots = json.loads((path.parent / "accuracy.json").read_text())
    assert {row["value"] for row in plots if row["model"] == "adapted"} == {0.75, 0.25}
    assert len(plots) == 6
    assert [row["loss"] for row in json.loads((path.parent / "loss.json").read_text())] == [5, 2.5, 100 / 60]


def test_a_benchmark_that_one_frame_can_settle_has_a_report_too(project):
    """Only Object Existence, in a file with a space in its name."""
    results = Path("outputs/evaluate/mvbench/results.jsonl")
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    rows = [row | {"id": row["id"].replace("_", " ")} for row in rows if row["task"] == "Object Existence"]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    provenance = {"benchmark": "mvbench", "bootstrap_resamples": 300, "seed": 1}
    write_json(Path("metrics/mvbench.json"), metrics.build(rows, provenance, BENCHMARK, OfflineJudge()))
    path = report(project)
    text = path.read_text()
    assert "Does it use time?" not in text
    assert "The adapted model answers 25.0 %" in text
    assert "(mvbench_object%20existence_0000.png)" in text
    assert (path.parent / "mvbench_object existence_0000.png").is_file()


def test_html_is_one_file_that_nothing_can_break_out_of(project):
    page = report(project).with_suffix(".html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>square" not in page
    elsewhere = page.replace(f'<a href="{ADDRESS}/', "")  # the gallery on this machine, when somebody follows the link
    assert "http://" not in elsewhere
    assert "https://" not in elsewhere
    assert "default-src 'none'" in page
    assert page.count("data:image/png;base64,") == page.count("<img ")


def test_two_reports_are_one(project):
    def content() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in report(project).parent.iterdir()}

    assert content() == content()


def test_without_results_it_says_what_to_run(project):
    Path("metrics/mvbench.json").unlink()
    with pytest.raises(PllavaError, match="pllava evaluate mvbench"):
        report(project)


def test_markup_in_text_stays_text():
    document = Document("a|b")
    document.table(["x", "y"], [["p|q", "*r*\nnext"]])
    assert "| p\\|q | \\*r\\* next |" in document.markdown()


def test_beside_the_paper(project):
    text = report(project).read_text()
    assert "| PLLaVA 7B, paper | 46.6 |" in text
    assert "| PLLaVA 34B, paper | 58.1 |" in text
    assert "| adapted, this run | 50.0 |" in text


def test_rendered_clips_are_not_passed_off_as_the_benchmark(project):
    rendered = project.rendered.model_copy(update={"root": project.evaluate.benchmarks["mvbench"].root.parent})
    assert "rendered here" in report(project.model_copy(update={"rendered": rendered})).read_text()
    assert "rendered here" not in report(project).read_text()


@pytest.fixture(params=["offline", "judge"])
def judged(request: pytest.FixtureRequest, project: Params, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Params:
    """As `project`, and two benchmarks with free answers, one of them without any truth."""
    if request.param == "offline":
        monkeypatch.delenv("PLLAVA_JUDGE_BASE_URL")
        monkeypatch.delenv("PLLAVA_JUDGE_MODEL")
    server.default = says("{'score': 4}")
    benchmarks = dict(project.evaluate.benchmarks)
    for name in ("vcgbench", "recaption"):
        root = write_layout(name, tmp_path / name)
        benchmarks[name] = Benchmark(root=root, template="vicuna")
        kind, scorer = load_benchmark(name), make_judge(project.judge)
        rows = []
        for sample in kind.samples(root):
            for model in ("base", "single_frame", "adapted"):
                row = {"model": model, "id": sample.id, "task": sample.task, "media": sample.media.relative_to(root).as_posix()}
                row |= {"start": None, "end": None, "question": sample.question, "candidates": [], "error": None, "correct": None}
                row |= {
                    "answer": sample.answer if name == "vcgbench" else "",
                    "prediction": "A square moves." if model == "adapted" else "No.",
                }
                if sample.second_question:
                    row |= {"second_question": sample.second_question, "second_prediction": "A <i>square</i>."}
                rows.append(row)
        provenance = {"benchmark": name, "bootstrap_resamples": 100, "seed": 1}
        write_scored(rows, kind, scorer, 0, provenance, Path("outputs/evaluate") / name, Path(f"metrics/{name}.json"))
    return project.model_copy(update={"evaluate": project.evaluate.model_copy(update={"benchmarks": benchmarks})})


def test_free_answers_say_who_scored_them(judged: Params, request: pytest.FixtureRequest):
    path = report(judged)
    text = path.read_text()
    assert "| PLLaVA 7B, paper | 3.21 | 2.86 | 3.62 | 2.33 | 2.93 | 3.12 | 2.99 |" in text
    assert "mean by samples | mean of dimensions" in text
    if "offline" in request.node.callspec.id:
        assert "Scored by the offline scorer" in text
        assert "not comparable" in text
        assert "| adapted, this run | - | - | - |" in text
    else:
        assert "Scored by the judge judge/one:latest" in text
        assert "| adapted, this run | 4.00 | 4.00 |" in text
        assert "right, 4 of 5" in text
    assert "What moves? / Which thing does not stay where it is?" in text
    assert "A \\<i\\>square" in text
    assert "none of them with a truth to be scored by" in text
    assert (path.parent / "accuracy_vcgbench.png").is_file()
    assert list(path.parent.glob("vcgbench_*.png"))
    page = path.with_suffix(".html").read_text()
    assert page.count("data:image/png;base64,") == page.count("<img ")
    assert "http" not in page.replace("http-equiv", "").replace(ADDRESS, "")


def test_links_lead_to_pages_of_the_gallery(project: Params, tmp_path: Path):
    """Each address in the report is answered by the gallery of the same results, and shows what it says."""
    import html
    import re

    from fastapi.testclient import TestClient

    from pllava.apps.gallery.app import create_app
    from pllava.apps.gallery.current import Current

    report(project)
    page = Path("outputs/report/report.html").read_text()
    found = [html.unescape(address) for address in re.findall(rf'href="{ADDRESS}(/[^"]*)"', page)]
    client = TestClient(create_app(Current(["outputs/evaluate"], project, home=tmp_path / "index")))
    assert any(address.startswith("/sample/mvbench/moving_direction/") for address in found)
    assert any(address.startswith("/compare?") for address in found)
    assert "/?benchmark=mvbench" in found
    for address in found:
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert "No question matches" not in answer.text, address
