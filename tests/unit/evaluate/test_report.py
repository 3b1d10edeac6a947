"""The report says what the results say, in equal bytes, and asks no server for anything."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from pllava.errors import PllavaError
from pllava.evaluate import metrics, report
from pllava.evaluate.document import Document
from pllava.evaluate.judge.offline import OfflineJudge
from pllava.evaluate.mvbench import BENCHMARK
from pllava.files import write_json
from pllava.params import Params
from pllava.registry import tracking

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
    assert "The adapted model answers 50.0 %" in text and "a blind guess 25.0 %" in text
    assert "On the 1 tasks that one frame can't settle: 75.0 %" in text and "Difference +50.0 points" in text
    assert "1 clips could not be read; their questions count as wrong: video/moving\\_direction/7.mp4" in text
    assert "Right with all frames, wrong with one (4 in all)" in text
    for image in ("accuracy_mvbench.png", "loss.png", "mvbench_moving_direction_0001.png"):
        assert f"({image})" in text and (path.parent / image).read_bytes().startswith(b"\x89PNG")
    plots = json.loads((path.parent / "accuracy.json").read_text())
    assert {row["value"] for row in plots if row["model"] == "adapted"} == {0.75, 0.25} and len(plots) == 6
    assert [row["loss"] for row in json.loads((path.parent / "loss.json").read_text())] == [5, 2.5, 100 / 60]


def test_html_is_one_file_that_nothing_can_break_out_of(project):
    page = report(project).with_suffix(".html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>square" not in page
    assert "http://" not in page and "https://" not in page and "default-src 'none'" in page
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
