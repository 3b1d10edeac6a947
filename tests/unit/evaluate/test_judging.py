"""Answering and judging are two steps: what was answered outlives a judge that fails, and is judged again without a model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from judge_server import KEY, Server, fails, says
from layouts import write_layout

from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.core.params import Params, load_params
from pllava.stages.evaluate import predict as answering
from pllava.stages.evaluate.judging import judge
from pllava.stages.evaluate.run import evaluate
from pllava.tracking import runs as tracking

PROJECT = Path(__file__).parents[3]
RESULTS, METRICS = Path("outputs/evaluate/vcgbench/results.jsonl"), Path("metrics/vcgbench.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout("vcgbench", tmp_path_factory.mktemp("vcg") / "VCGBench")


@pytest.fixture
def params(evaluation_project: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    for name in ("base", "outputs/train"):
        shutil.copytree(evaluation_project / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "later_stage", lambda params: nullcontext(tracking.Run(None, None)))
    values = yaml.safe_load((evaluation_project / "params.yaml").read_text())
    values["evaluate"]["benchmarks"] = {"vcgbench": {"root": str(root), "template": "eval_vcgbench", "max_new_tokens": 4}}
    values["judge"] = {"attempts": 1, "backoff_seconds": 0, "max_missing": 0.1, "price_per_million_tokens": [1, 2]}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    yield load_params("params.yaml")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model is asked again")

    monkeypatch.setattr(answering.Predictor, "answer", refuse)


def by_length(handler: Any, body: dict[str, Any]) -> None:
    """Another score for another request."""
    says(f"{{'score': {len(body['messages'][1]['content']) % 6}}}")(handler, body)


def test_judged_from_files_to_metrics(server: Server, params: Params):
    server.default = by_length
    found = json.loads(evaluate(params, "vcgbench").read_text())
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    judge_found = found["provenance"]["judge"]
    assert (judge_found["kind"], judge_found["model"], judge_found["temperature"]) == ("endpoint", "judge/one:latest", 0)
    for model, entry in found["models"].items():
        scores: dict[str, list[float]] = {}
        for row in rows:
            if row["model"] == model:
                for task, score in row["scores"].items():
                    scores.setdefault(task, []).append(score["score"])
        assert {task: cell["n"] for task, cell in entry["tasks"].items()} == {
            "Correctness of Information": 2,
            "Detail Orientation": 2,
            "Contextual Understanding": 2,
            "Temporal Understanding": 2,
            "Consistency": 1,
        }
        for task, values in scores.items():
            assert entry["tasks"][task]["score"] == pytest.approx(sum(values) / len(values), abs=1e-6)
            assert entry["tasks"][task]["value"] == pytest.approx(sum(values) / len(values) / 5, abs=1e-6)
        every = [value for values in scores.values() for value in values]
        assert entry["average"]["score"] == entry["average_over_questions"]["score"] == pytest.approx(sum(every) / len(every), abs=1e-6)
        assert entry["average_over_tasks"]["score"] == pytest.approx(sum(sum(v) / len(v) for v in scores.values()) / 5, abs=1e-6)
    record = json.loads(Path("outputs/evaluation_runs/vcgbench.json").read_text())
    assert (record["results_sha256"], record["metrics_sha256"]) == (sha256_file(RESULTS), sha256_file(METRICS))
    assert record["judge"]["requests"] == len(server.requests)
    assert record["judge"]["cost"] == pytest.approx(len(server.requests) * 120e-6)
    written = "".join(file.read_text(errors="ignore") for file in Path().rglob("*.json*") if "base" not in file.parts)
    assert KEY not in written
    assert "git.commit" in record["code"]


def test_answers_outlive_a_judge_that_fails(server: Server, params: Params, monkeypatch: pytest.MonkeyPatch):
    server.default = fails(503)
    with pytest.raises(PllavaError, match=r"judgements failed, judge.max_missing allows 10.0%.*Answers and replies are kept"):
        evaluate(params, "vcgbench")
    assert not RESULTS.exists()
    assert not METRICS.exists()
    server.default = by_length

    def refuse(*_: Any) -> None:
        raise AssertionError("the model is asked again")

    monkeypatch.setattr(answering.Predictor, "answer", refuse)
    assert evaluate(params, "vcgbench") == METRICS
    assert RESULTS.exists()


def test_judging_again_needs_no_model_and_leaves_the_evaluation_alone(server: Server, params: Params, monkeypatch: pytest.MonkeyPatch):
    for name in ("BASE_URL", "MODEL"):
        monkeypatch.delenv(f"PLLAVA_JUDGE_{name}")
    evaluate(params, "vcgbench")  # offline
    offline = sha256_file(RESULTS), sha256_file(METRICS)
    monkeypatch.setattr(answering.Predictor, "answer", lambda *_: pytest.fail("the model is asked again"))
    monkeypatch.setenv("PLLAVA_JUDGE_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    scores = {}
    for model, reply in (("judge-one", "{'score': 4}"), ("judge-two", "{'score': 1}")):
        monkeypatch.setenv("PLLAVA_JUDGE_MODEL", model)
        server.default = says(reply)
        (path,) = judge(params, ["vcgbench"], None, Path("outputs/judged") / model)
        found = json.loads(path.read_text())
        scores[model] = found["models"]["adapted"]["average"]["value"]
        assert found["provenance"]["judge"]["model"] == model
        assert found["provenance"]["adapter_sha256"] == json.loads(METRICS.read_text())["provenance"]["adapter_sha256"]
    assert scores == {"judge-one": 0.8, "judge-two": 0.2}
    assert (sha256_file(RESULTS), sha256_file(METRICS)) == offline
    again = judge(params, ["vcgbench"], Path("outputs/judged/judge-one/vcgbench"), Path("outputs/judged/third"))
    assert json.loads(again[0].read_text())["models"]["adapted"]["average"]["value"] == 0.2


def test_every_key_is_documented(server: Server, params: Params):
    evaluate(params, "vcgbench")
    text = (PROJECT / "docs/evaluation.md").read_text().split("## Keys of the results")[1]
    known = set(re.findall(r"`([a-z0-9_]+)`", text))

    def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        for key, inner in value.items():
            named = path[-1:] in ((), ("provenance",), ("judge",)) or not {"models", "tasks", "scores", "versions", "code"} & set(path[-1:])
            if named:
                yield key
            if isinstance(inner, dict):
                yield from keys(inner, (*path, key))

    for file in (METRICS, Path("outputs/evaluation_runs/vcgbench.json")):
        found = set(keys(json.loads(file.read_text())))
        found -= {"base", "single_frame", "adapted", "model"}  # names of models, explained above the tables
        assert found <= known, f"{file}: {found - known} not in docs/evaluation.md"
    for line in RESULTS.read_text().splitlines():
        assert set(keys(json.loads(line))) <= known


def test_processes_share_the_questions_and_a_kill_costs_nothing(params: Params, monkeypatch: pytest.MonkeyPatch):
    """One process, and two of which the first had finished when a kill came, the second had not begun: the same bytes."""
    for name in ("BASE_URL", "MODEL"):
        monkeypatch.delenv(f"PLLAVA_JUDGE_{name}", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"batch_size": 2})})
    evaluate(params, "vcgbench")
    alone = sha256_file(RESULTS), sha256_file(METRICS)
    shutil.rmtree("outputs/evaluate")
    assert not list(Path(".state/evaluate/vcgbench").glob("*"))

    values = yaml.safe_load(Path("params.yaml").read_text())
    values["evaluate"] |= {"batch_size": 2, "processes": 2}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    script = """
import os, signal, sys
from pllava.stages.evaluate import run as runner
def killed(params, benchmark, limit, journal, units, processes):
    runner.answer_share(params, runner.make_job(params, benchmark, limit, journal), units, 0, 2)
    os.kill(os.getpid(), signal.SIGKILL)
runner.answer_in_processes = killed
from pllava.core.params import load_params
runner.evaluate(load_params("params.yaml"), "vcgbench")
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == -9
    assert [file.name.split(".", 1)[1] for file in Path(".state/evaluate/vcgbench").glob("*")] == ["ledger"]
    evaluate(load_params("params.yaml"), "vcgbench")
    assert (sha256_file(RESULTS), sha256_file(METRICS)) == alone
    assert not list(Path(".state/evaluate/vcgbench").glob("*"))
    assert json.loads(Path("outputs/evaluation_runs/vcgbench.json").read_text())["processes"] == 2


def test_one_evaluation_of_the_same_at_a_time_and_each_with_orders_of_its_own(params: Params, monkeypatch: pytest.MonkeyPatch):
    from pllava.stages.evaluate import distributed as shards
    from pllava.stages.evaluate import run as runner

    for name in ("BASE_URL", "MODEL"):
        monkeypatch.delenv(f"PLLAVA_JUDGE_{name}", raising=False)
    journal = runner.make_job(params, "vcgbench").journal
    script = "from pathlib import Path; from pllava.stages.evaluate.prediction_log import alone; import sys, time\n"
    script += "with alone(Path(sys.argv[1])): print('at work', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(journal)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "at work\n"
        with pytest.raises(PllavaError, match="evaluated with these settings by another process"):
            evaluate(params, "vcgbench")
        other.kill()
    evaluate(params, "vcgbench")
    files = [set(shards.worker_spec(Path(".state/evaluate/vcgbench") / f"{key}.ledger")) for key in ("a", "b")]
    assert not files[0] & files[1]


def test_processes_wait_for_those_before_and_end_with_their_command(params: Params, monkeypatch: pytest.MonkeyPatch):
    """One that outlived its command would write into the journals of the next."""
    from pllava.stages.evaluate import run as runner
    from pllava.stages.evaluate.prediction_log import alone, finished

    for name in ("BASE_URL", "MODEL"):
        monkeypatch.delenv(f"PLLAVA_JUDGE_{name}", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    journal = runner.make_job(params, "vcgbench").journal
    script = "from pllava.stages.evaluate import run as runner; from pllava.core.params import load_params\n"
    script += "runner.evaluate(load_params('params.yaml'), 'vcgbench', processes=2)"
    with alone(journal, rank=0), alone(journal, rank=1):
        command = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        assert command.stderr
        waiting = 0
        while waiting < 2 and (line := command.stderr.readline()):  # what two processes say at once may be one line
            waiting += line.count("waiting up to")
        assert waiting == 2
        started = psutil.Process(command.pid).children(recursive=True)
        assert len(started) >= 3  # the launcher and what it launched
        command.kill()
        command.wait()
        assert not psutil.wait_procs(started, timeout=40)[1]
        assert not finished(journal)


def test_shares_do_not_depend_on_who_begins_first(params: Params, monkeypatch: pytest.MonkeyPatch):
    """A process that begins late must not share out anew what the others have not answered yet: units would be lost."""
    from pllava.stages.evaluate import run as runner
    from pllava.stages.evaluate.prediction_log import finished

    for name in ("BASE_URL", "MODEL"):
        monkeypatch.delenv(f"PLLAVA_JUDGE_{name}", raising=False)
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"batch_size": 1})})
    job = runner.make_job(params, "vcgbench")
    units = list(job.remaining())
    for rank in (0, 2, 1):
        runner.answer_share(params, job, units, rank, 3)
    assert sorted(finished(job.journal)) == units
    assert job.remaining() == {}
