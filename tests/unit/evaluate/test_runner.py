"""The evaluation of a small MVBench with a tiny random model: one hash whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import pllava
from pllava.benchmarks.mvbench import format_question, load_samples
from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.core.overrides import merge
from pllava.core.params import Params, load_params
from pllava.stages.evaluate import predict as answering
from pllava.stages.evaluate import run as runner
from pllava.stages.evaluate.prediction_log import alone, finished
from pllava.stages.evaluate.run import evaluate
from pllava.stages.evaluate.units import Clip, units
from pllava.tracking import runs as tracking
from pllava.video.readers import Readers

REFERENCE = Path(__file__).parents[2] / "reference"
RESULTS, METRICS = Path("outputs/evaluate/mvbench/results.jsonl"), Path("metrics/mvbench.json")


@pytest.fixture(autouse=True)
def in_project(evaluation_project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(evaluation_project)
    monkeypatch.setattr(tracking, "later_stage", lambda params: nullcontext(tracking.Run(None, None)))
    yield
    for folder in ("outputs/evaluate", "metrics", ".state"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def params() -> Params:
    return load_params("params.yaml")


def change(params: Params, **changes: object) -> Params:
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=changes)})


def rows() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def hashes() -> tuple[str, str]:
    return sha256_file(RESULTS), sha256_file(METRICS)


def test_results_and_metrics(params: Params):
    assert evaluate(params, "mvbench") == METRICS
    found, samples = json.loads(METRICS.read_text()), load_samples("MVBench")
    assert [(row["id"], row["model"]) for row in rows()] == [(s.id, m) for s in samples for m in ("base", "single_frame", "adapted")]
    # the damaged clip 2.mp4 carries one question of the first task: wrong there, listed once
    damaged = [row for row in rows() if row["error"] is not None]
    assert {row["id"] for row in damaged} == {"moving_direction/0002"}
    assert len(damaged) == 3
    assert all(row["task"] == "Moving Direction" and not row["correct"] and "2.mp4" in row["error"] for row in damaged)
    assert found["provenance"]["unreadable"] == ["video/moving_direction/2.mp4"]
    for model in ("base", "single_frame", "adapted"):
        tasks = found["models"][model]["tasks"]
        assert set(tasks) == {"Moving Direction", "Action Count"}
        assert (tasks["Moving Direction"]["n"], tasks["Moving Direction"]["chance"]) == (5, 0.25)
        for task, cell in tasks.items():
            answers = [row["correct"] for row in rows() if row["model"] == model and row["task"] == task]
            assert cell["value"] == pytest.approx(sum(answers) / len(answers))
            assert cell["low"] <= cell["value"] <= cell["high"]
        assert found["models"][model]["average"]["value"] == pytest.approx(sum(cell["value"] for cell in tasks.values()) / 2)
    assert found["provenance"]["lora_alpha"] == 8
    assert found["provenance"]["n_questions"] == 10
    assert str(Path.cwd()) not in METRICS.read_text() + RESULTS.read_text()
    assert not list(Path(".state").rglob("*.ledger"))
    predictions = {m: [row["prediction"] for row in rows() if row["model"] == m] for m in ("base", "single_frame", "adapted")}
    assert len({tuple(values) for values in predictions.values()}) == 3  # three models, not one three times


def test_a_users_template_is_used_and_its_hash_recorded(params: Params):
    mine = Path("mine.yaml")
    mine.write_text((pllava.chat.template.FOLDER / "eval_mvbench.yaml").read_text().replace("Watch the video", "Look at the clip"))
    benchmark = params.evaluate.benchmarks["mvbench"].model_copy(update={"template": str(mine)})
    evaluate(params)
    shipped = hashes()
    evaluate(change(params, benchmarks={"mvbench": benchmark}))
    assert hashes()[0] != shipped[0]  # another prompt, other answers
    recorded = json.loads(METRICS.read_text())["provenance"]
    assert recorded["template"] == "mine.yaml"
    assert recorded["template_sha256"] == pllava.chat.load_template(mine).sha256 != pllava.chat.load_template("eval_mvbench").sha256


def test_two_runs_are_one_hash(params: Params):
    evaluate(params)
    first = hashes()
    evaluate(params)
    assert hashes() == first


def test_batches_do_not_change_answers(params: Params):
    evaluate(change(params, batch_size=1))
    alone = rows()
    evaluate(change(params, batch_size=7))
    assert rows() == alone


def test_the_base_is_the_base_and_one_frame_is_a_still(params: Params):
    """`base` answers as the base loaded alone; `single_frame` as the adapted model that is shown a clip of one frame only."""
    evaluate(params)
    recorded = {(row["id"], row["model"]): row["prediction"] for row in rows()}
    template = pllava.chat.load_template("eval_mvbench")
    settings = {"num_frames": 4, "pooling_shape": (4, 2, 2), "dtype": "float32"}
    base, processor = pllava.load("base", **settings)
    adapted, _ = pllava.load("base", adapter="outputs/train/adapter", **settings)
    for sample in load_samples("MVBench"):
        if sample.id == "moving_direction/0002":
            continue
        frames = pllava.read_video(sample.media, 4, "eval", sample.start, sample.end).frames
        prompt = template.prompt_for(format_question(sample.question, sample.candidates))
        for name, model, shown in (("base", base, frames), ("adapted", adapted, frames), ("single_frame", adapted, frames[[2, 2, 2, 2]])):
            inputs = processor(text=[prompt], videos=[shown])
            asked = inputs["input_ids"].shape[1]
            output = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0].tolist()
            # the first space of a reply counts, as in the published scripts: "( A" names no letter
            assert template.trim_reply(processor.decode_new(output[:asked], output[asked:])) == recorded[sample.id, name]


def test_killed_and_resumed_is_uninterrupted(params: Params):
    evaluate(params)
    whole = hashes()
    shutil.rmtree("outputs/evaluate")
    script = """
import os, signal
from pllava.stages.evaluate.prediction_log import PredictionLog
from pllava.stages.evaluate.prediction_log import alone
from pllava.stages.evaluate.run import evaluate
from pllava.core.params import load_params
add = PredictionLog.add
def add_then_die(self, unit, rows):
    if len(self.done) == 2:
        def dying():
            yield "half a unit", {}
            os.kill(os.getpid(), signal.SIGKILL)
        self._ledger.add(dying())
    add(self, unit, rows)
PredictionLog.add = add_then_die
evaluate(load_params("params.yaml"))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == -9
    assert not Path("outputs/evaluate").exists()
    (journal,) = Path(".state/evaluate/mvbench").glob("*.ledger")
    assert len(finished(journal)) == 2
    asked: list[int] = []
    answer = answering.Predictor.answer

    def counted(self: answering.Predictor, unit: list[Clip]) -> list[dict]:
        asked.append(sum(len(clip.samples) for clip in unit))
        return answer(self, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering.Predictor, "answer", counted)
        evaluate(params)
    assert sum(asked) < 10  # what was answered is not asked again
    assert hashes() == whole


def test_a_journal_of_other_settings_is_not_used(params: Params):
    evaluate(change(params, lora_alpha=4))
    other = json.loads(METRICS.read_text())
    assert other["provenance"]["lora_alpha"] == 4
    evaluate(params)
    assert json.loads(METRICS.read_text())["provenance"]["lora_alpha"] == 8


@pytest.mark.parametrize(
    "changed",
    [
        {"evaluate": {"lora_alpha": 4}},
        {"evaluate": {"batch_size": 2}},
        {"evaluate": {"benchmarks": {"mvbench": {"template": "tiny_mvbench"}}}},
        {"evaluate": {"benchmarks": {"mvbench": {"max_new_tokens": 3}}}},
        {"evaluate": {"benchmarks": {"mvbench": {"limit": 2}}}},
        {"model": {"num_frames": 8}},
        {"model": {"pooling_shape": [4, 1, 1]}},
        {"model": {"dtype": "bfloat16"}},
        {"model": {"attn_implementation": "eager"}},
        {"seed": 77},
    ],
    ids=str,
)
def test_every_setting_of_the_answers_is_part_of_the_key(params: Params, changed: dict):
    settings = params.model_dump(mode="json")
    merge(settings, changed)
    other = Params.model_validate(settings)
    assert other != params
    assert runner.make_job(other, "mvbench").journal != runner.make_job(params, "mvbench").journal


def test_the_number_of_processes_is_no_part_of_the_key(params: Params):
    assert runner.make_job(change(params, processes=2), "mvbench").journal == runner.make_job(params, "mvbench").journal


def test_two_evaluations_do_not_share_a_log(params: Params):
    with alone(runner.make_job(params, "mvbench").journal), pytest.raises(PllavaError, match="is being evaluated with these settings"):
        evaluate(params)


def test_a_clip_is_decoded_once_and_seen_by_the_tower_once(params: Params, monkeypatch: pytest.MonkeyPatch):
    decoded: list[Path] = []
    frames: list[int] = []
    read, features = Readers.read, pllava.PllavaForConditionalGeneration.vision_features
    monkeypatch.setattr(Readers, "read", lambda self, path, *a: decoded.append(path) or read(self, path, *a))
    monkeypatch.setattr(
        pllava.PllavaForConditionalGeneration, "vision_features", lambda self, pixels: frames.append(len(pixels)) or features(self, pixels)
    )
    evaluate(params)
    assert len(decoded) == 8  # six clips, and the part of two of them that questions 4 ask about
    assert sum(frames) == 7 * 4  # all but the damaged one; three models, ten questions


def test_units_hold_whole_clips_and_at_most_a_batch():
    samples = load_samples("MVBench")
    plan = units(samples, 3)
    asked = [[sample.id for clip in unit for sample in clip.samples] for unit in plan]
    assert sorted(id_ for unit in asked for id_ in unit) == sorted(sample.id for sample in samples)
    assert max(map(len, asked)) <= 3
    assert len(units(samples, 1)) == 8
    assert len(units(samples, 100)) == 1


def test_what_is_missing_is_named(params: Params, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "ADAPTER", Path("outputs/none"))
    with pytest.raises(PllavaError, match="pllava train"):
        evaluate(params)


def test_a_question_with_a_marker_is_named_before_anything_runs(params: Params, tmp_path: Path):
    shutil.copytree("MVBench", tmp_path / "MVBench")
    file = tmp_path / "MVBench/json/action_count.json"
    entries = json.loads(file.read_text())
    entries[1]["question"] = "What does <image> show?"
    file.write_text(json.dumps(entries))
    benchmark = params.evaluate.benchmarks["mvbench"].model_copy(update={"root": tmp_path / "MVBench"})
    with pytest.raises(PllavaError, match=r"action_count/0001: .*<image>"):
        evaluate(change(params, benchmarks={"mvbench": benchmark}))
    entries[1]["question"] = "What \ud83d?"
    file.write_text(json.dumps(entries))
    with pytest.raises(PllavaError, match=r"action_count/0001: .*half of a character"):
        evaluate(change(params, benchmarks={"mvbench": benchmark}))
