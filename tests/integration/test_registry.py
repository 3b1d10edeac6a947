"""From a trained adapter to the champion and back, on a real MLflow store."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.models import Model
from prefect.exceptions import TerminationSignal

from flows import sweep
from pllava import registry
from pllava.core.errors import PllavaError
from pllava.core.files import write_json
from pllava.core.hashing import sha256_file
from pllava.core.params import load_params
from pllava.registry import champion_file
from pllava.registry.measurements import at_registration, keep, unmeasured
from pllava.registry.resolve import local_model, locate
from pllava.tracking import names, provenance, store
from pllava.tracking import runs as tracking
from pllava.trials.points import Grid

pytestmark = pytest.mark.integration
RECIPE = Path("recipes/tiny.yaml").resolve()


@pytest.fixture
def project(tmp_path, monkeypatch, mlflow_template):
    """An empty project folder with a migrated store."""
    shutil.copy(RECIPE, tmp_path / "params.yaml")
    shutil.copytree(mlflow_template, tmp_path / store.MLFLOW_HOME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def params(project):
    return load_params()


def git(*arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_adapter(weights: bytes):
    folder = Path("outputs/train/adapter")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    digest = sha256_file(folder / "adapter_model.safetensors")
    write_json(folder / "manifest.json", {"files": {"adapter_model.safetensors": digest}, "adapter_sha256": digest})
    return digest


def measure(digest: str, value: float, data: str = "d" * 64):
    score = {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 50, "chance": 0.25}
    provenance = {"data_sha256": data, "template_sha256": "t" * 64, "adapter_sha256": digest}
    models = {name: {"average": score, "tasks": {"Moving Count": score}} for name in ("base", "single_frame", "adapted")}
    write_json("metrics/mvbench.json", {"benchmark": "mvbench", "provenance": provenance, "models": models})
    rows = [
        {
            "model": "adapted", "id": str(i), "task": "Moving Count", "media": f"{i}.mp4", "start": None, "end": None, "question": "?",
            "candidates": ["a", "b"], "answer": "(A) a", "prediction": "", "correct": i < 100 * value, "error": None,
        }
        for i in range(100)
    ]  # fmt: skip
    results = Path("outputs/evaluate/mvbench/results.jsonl")
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(params, weights=b"weights", value=0.9, data="d" * 64):
    """Leaves behind what the stages train and evaluate do."""
    shutil.rmtree("outputs/train", ignore_errors=True)
    with tracking.training_run(params) as run:
        for step in range(1, 4):
            run.log(step, loss=1.0 / step, lr=0.1)
        digest = write_adapter(weights)
    measure(digest, value, data)
    return run.run_id


def crown(params, weights, value=0.9):
    train(params, weights, value)
    version = registry.register(params)
    assert registry.gate(params).passed
    registry.promote(params)
    return version


def test_a_training_run_holds_settings_curves_and_the_adapter(params):
    run_id = train(params)
    run = store.client().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lora.r"] == str(params.train.lora.r)
    assert run.data.tags["adapter_sha256"] == tracking.adapter_digest(Path())
    assert run.data.tags["version.torch"].startswith("2.")
    assert [point.value for point in store.client().get_metric_history(run_id, "loss")] == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_failed_training_is_marked_failed(params):
    with pytest.raises(RuntimeError), tracking.training_run(params) as run:
        raise RuntimeError("diverged")
    assert store.client().get_run(run.run_id).info.status == "FAILED"


def test_a_training_that_was_stopped_or_killed_does_not_look_as_if_it_went_on(params):
    with pytest.raises(KeyboardInterrupt), tracking.training_run(params) as stopped:
        raise KeyboardInterrupt
    unclosed = tracking.training_run(params)
    killed = unclosed.__enter__().run_id  # and nothing more: kill -9
    train(params)
    assert [store.client().get_run(run_id).info.status for run_id in (stopped.run_id, killed)] == ["KILLED", "KILLED"]


def test_a_run_is_named_and_described_by_what_is_different_and_its_experiment_opens_on_runs(params, project):
    """Also when training has seeded the generator from which MLflow draws its own names."""
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-q", "-m", "settings")
    git("remote", "add", "origin", "git@git.example.org:group/project.git")
    other = params.model_copy(update={"train": params.train.model_copy(update={"steps": 20, "learning_rate": 0.0005})})
    connection = store.client()
    same, changed = (connection.get_run(train(each)) for each in (params, other))
    assert (same.info.run_name, changed.info.run_name) == ("as params.yaml", "steps=20, lr=0.0005")
    note = changed.data.tags["mlflow.note.content"]
    commit = git("rev-parse", "HEAD")
    assert "train.steps = 20" in note
    assert f"https://git.example.org/group/project/commit/{commit}" in note
    assert "Data, train." in note
    assert connection.get_experiment(same.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_page_of_prefect_and_the_run_in_mlflow_lead_to_each_other(params, project, monkeypatch):
    from flows import links

    monkeypatch.setattr(links, "ROOT", project)
    monkeypatch.setenv(names.LINKS, json.dumps({"Prefect run": "[abc](http://127.0.0.1:4200/runs/flow-run/abc)"}))
    run_id = train(params)
    digest = tracking.adapter_digest(Path())
    line = links.run_line(digest, {"DVC experiment": "`dvc exp apply brave-otter`"})
    links.run_line(digest, {"DVC experiment": "`dvc exp apply calm-otter`"})
    note = store.client().get_run(run_id).data.tags["mlflow.note.content"]
    assert line.startswith("MLflow run: ")
    assert "http://127.0.0.1:4200/runs/flow-run/abc" in note
    assert "calm-otter" in note
    assert "brave-otter" not in note
    write_json(".state/stack.json", {"root": "", "mlflow_port": 5009, "prefect_port": 1, "demo_port": 2, "bridge_port": 3})
    assert f"(http://127.0.0.1:5009/#/experiments/1/runs/{run_id})" in links.run_line(digest)
    assert "(http://127.0.0.1:5009/#/models/pllava/versions/3)" in links.version_line(3)
    assert links.run_line("0" * 64) == ""


def test_an_experiment_of_before_opens_on_runs_too(params):
    connection = store.client()
    made = connection.create_experiment(params.registry.experiment)
    assert store.experiment_id(connection, params.registry.experiment) == made
    assert connection.get_experiment(made).tags["mlflow.experimentKind"] == "custom_model_development"


def test_training_goes_on_when_mlflow_is_away(params, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking.training_run(params) as run:
        run.log(1, loss=1.0)
    assert run.connection is None
    assert "not tracked" in caplog.text


def test_an_untracked_training_is_recorded_from_its_history(params):
    digest = write_adapter(b"restored")
    measure(digest, 0.9)
    Path("outputs/train/history.jsonl").write_text('{"step": 1, "loss": 2.0, "lr": 0.1}\n{"step": 2, "loss": 1.0, "lr": 0.1}\n')
    version = registry.register(params)
    connection = store.client()
    run = connection.get_run(connection.get_model_version(params.registry.model_name, str(version)).run_id)
    assert run.data.tags["restored"] == "true"
    assert run.data.metrics["loss"] == 1.0
    assert run.data.metrics["mvbench/adapted/average"] == 0.9


def test_the_same_adapter_is_registered_once(params):
    run_id = train(params)
    assert registry.register(params) == registry.register(params) == 1
    version = store.client().get_model_version(params.registry.model_name, "1")
    assert version.run_id == run_id
    assert set(version.tags) == {"adapter_sha256", "mvbench.average", "measured.mvbench"}
    assert version.description.startswith("**mvbench 90.0 %**")
    train(params, b"other weights")
    assert registry.register(params) == 2


def test_the_gates_word_is_in_the_description_once_and_origin_is_known_without_tags(params):
    crown(params, b"weights")
    registry.gate(params)
    train(params, b"others", 0.91)
    number = registry.register(params)
    registry.gate(params)
    registry.gate(params)
    version = store.client().get_model_version("pllava", str(number))
    assert version.description.startswith("Gate: passed, against version 1")
    assert version.description.count("Gate: ") == 1
    assert "**mvbench 91.0 %**" in version.description
    assert local_model(f"models:/pllava/{number}").lineage["mlflow run"] == version.run_id
    assert "torch 2" in local_model(f"models:/pllava/{number}").lineage["packages"]


def test_a_version_of_before_is_measured_by_its_tag_until_it_is_registered_anew(params):
    crown(params, b"weights")
    connection = store.client()
    metrics = at_registration(connection, connection.get_model_version("pllava", "1"), "mvbench")
    assert metrics["models"]["adapted"]["average"]["value"] == 0.9
    connection.delete_model_version_tag("pllava", "1", "measured.mvbench")
    connection.set_model_version_tag("pllava", "1", "metrics.mvbench", json.dumps(metrics))
    assert at_registration(connection, connection.get_model_version("pllava", "1"), "mvbench") == metrics
    train(params, b"others", 0.91)
    registry.register(params)
    assert registry.gate(params).passed
    train(params, b"weights", 0.8)
    assert registry.register(params) == 1
    registered = at_registration(connection, connection.get_model_version("pllava", "1"), "mvbench")
    assert registered["models"]["adapted"]["average"]["value"] == 0.8


def test_the_recorded_champion_is_found_without_mlflow_and_never_after_a_move_by_clicks(params):
    code = (
        "import sys; from pllava.core.params import load_params; from pllava.registry.default_model import choose\n"
        "print(choose(load_params()).name, 'mlflow' in sys.modules)"
    )

    def default() -> str:
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    crown(params, b"one")
    assert default() == "pllava version 1 (champion) False"
    crown(params, b"two", 0.91)
    assert default() == "pllava version 2 (champion) False"
    connection = store.client()
    connection.set_registered_model_alias("pllava", "champion", "1")  # as MLflow's pages do
    assert default() == "pllava version 1 (champion) True"
    assert default() == "pllava version 1 (champion) False"
    connection.set_model_version_tag("pllava", "1", "adapter_sha256", "0" * 64)
    assert champion_file.read("pllava") is None
    connection.delete_registered_model_alias("pllava", "champion")
    assert champion_file.read("pllava") is None


def test_changed_files_of_the_recorded_champion_are_noticed(params):
    crown(params, b"one")
    folder = champion_file.read("pllava")[0].folder
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(PllavaError, match="differ from manifest"):
        local_model("models:/pllava@champion")


def test_a_server_is_asked_every_time(params, monkeypatch):
    crown(params, b"one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert champion_file.read("pllava") is None


def test_another_strength_of_the_champions_adapter_is_another_version_and_the_champion_stays_what_it_was(params):
    """It answers otherwise: it must pass the gate before anybody is served by it."""
    crown(params, b"weights", 0.8)
    weaker = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"lora_alpha": 4.0})})
    measure(sha256_file("outputs/train/adapter/adapter_model.safetensors"), 0.9)
    assert registry.register(weaker) == registry.register(weaker) == 2
    champion, other = (store.client().get_model_version("pllava", number) for number in "12")
    assert "lora_alpha" not in champion.tags
    assert other.tags["lora_alpha"] == "4.0"
    assert champion.run_id == other.run_id
    assert [
        Model.load(locate(f"models:/pllava/{number}")[1].parents[1]).flavors["python_function"]["config"]["lora_alpha"] for number in "12"
    ] == [None, 4.0]
    result = registry.gate(weaker)
    assert result.passed
    assert result.differences["mvbench"].startswith("+10.0 (")


def test_an_unmeasured_adapter_is_not_registered(params):
    write_adapter(b"weights")
    with pytest.raises(PllavaError, match="dvc repro evaluate@mvbench"):
        registry.register(params)


def test_champion_resolves_to_the_registered_bytes(params):
    crown(params, b"first")
    number, folder = locate("models:/pllava@champion")
    assert number == 1
    assert (folder / "adapter_model.safetensors").read_bytes() == b"first"
    assert registry.resolve("models:/pllava/1") == folder
    (folder / "adapter_model.safetensors").write_bytes(b"tampered")
    with pytest.raises(PllavaError, match=r"differ from manifest\.json"):
        registry.resolve("models:/pllava@champion")


@pytest.mark.parametrize("uri", ["models:/pllava@champion", "models:/pllava/1", "pllava@champion"])
def test_an_address_that_leads_nowhere_says_so(params, uri):
    with pytest.raises(PllavaError):
        registry.resolve(uri)


def test_promotion_needs_a_gate_passed_against_todays_champion(params):
    crown(params, b"first")
    train(params, b"second")
    registry.register(params)
    with pytest.raises(PllavaError, match="has not been through the gate"):
        registry.promote(params)
    assert registry.gate(params).passed
    train(params, b"third")
    registry.register(params)
    registry.gate(params)
    registry.promote(params)
    with pytest.raises(PllavaError, match="the champion is 3 now"):
        registry.promote(params, version=2)


def test_a_worse_version_is_promoted_only_by_force_which_is_recorded(params):
    crown(params, b"first", 0.9)
    train(params, b"second", 0.5)
    registry.register(params)
    assert not registry.gate(params).passed
    with pytest.raises(PllavaError, match="the gate says no"):
        registry.promote(params)
    assert registry.promote(params, force=True, reason="the old one leaks").version == 2
    tags = store.client().get_model_version("pllava", "2").tags
    assert tags["forced_reason"] == "the old one leaks"
    assert "average 0.5000" in tags["forced_over"]


def test_rollback_swaps_back_exactly(params):
    crown(params, b"first")
    with pytest.raises(PllavaError, match="no previous champion"):
        registry.rollback(params)
    crown(params, b"second")
    assert str(registry.rollback(params)) == "champion of pllava: version 1 (previous: 2)"
    assert str(registry.rollback(params)) == "champion of pllava: version 2 (previous: 1)"
    assert registry.promote(params).version == 2, "promoting the champion changes nothing"
    assert registry.rollback(params).version == 1


def test_the_next_run_of_the_pipeline_does_not_undo_a_rollback(params):
    crown(params, b"first")
    crown(params, b"second")
    registry.rollback(params)
    registry.register(params)  # as `make run` with nothing changed
    result = registry.gate(params)
    assert not result.passed
    assert "version 2 was rolled back at" in result.reasons[0]
    with pytest.raises(PllavaError, match="was rolled back"):
        registry.promote(params)
    assert registry.rollback(params).version == 2
    assert registry.gate(params).passed, "a second rollback takes it all back"


def test_the_champion_keeps_the_record_of_its_promotion(params):
    crown(params, b"first")
    registry.register(params)
    assert registry.gate(params).passed
    assert store.client().get_model_version("pllava", "1").tags["gate.against"] == "none"


def test_a_process_that_goes_on_to_another_project_finds_that_ones_records(params, mlflow_template, tmp_path_factory, monkeypatch):
    train(params)
    assert registry.register(params) == 1
    other = tmp_path_factory.mktemp("other")
    shutil.copy(RECIPE, other / "params.yaml")
    shutil.copytree(mlflow_template, other / store.MLFLOW_HOME)
    monkeypatch.chdir(other)
    assert "MLFLOW_TRACKING_URI" not in os.environ, "children and later projects would inherit it"
    train(params, b"others")
    assert registry.register(params) == 1, "the first version here"
    assert locate("models:/pllava/1")[1].is_relative_to(other)


def test_a_sweep_that_was_cancelled_does_not_look_as_if_it_went_on(params, monkeypatch):
    def cancelled(*_):
        raise TerminationSignal(15)

    monkeypatch.setattr(sweep, "ROOT", Path.cwd())
    monkeypatch.setattr(sweep, "get_run_logger", lambda: logging.getLogger("sweep"))
    monkeypatch.setattr(sweep, "run_points", SimpleNamespace(with_options=lambda task_runner: cancelled))
    with pytest.raises(TerminationSignal):
        sweep._sweep(Grid(), [{"train.lora.r": 2}], [], "mvbench", None, "thread", 1, False, None)
    connection = store.client()
    (run,) = connection.search_runs([store.experiment_id(connection, params.registry.experiment)])
    assert run.info.run_name.startswith("sweep ")
    assert run.info.status == "KILLED"


def test_what_the_champion_has_to_be_measured_on_is_known(params):
    crown(params, b"first")
    assert unmeasured(params, 1) == (None, []), "nobody to compare with"
    train(params, b"second", data="e" * 64)
    registry.register(params)
    assert unmeasured(params, 2) == (1, ["mvbench"])
    assert not registry.gate(params).passed
    connection = store.client()
    champion = connection.get_model_version("pllava", "1")
    measure(champion.tags["adapter_sha256"], 0.9, "e" * 64)
    keep(connection, champion, champion.run_id, "mvbench", Path("metrics/mvbench.json"), Path("outputs/evaluate/mvbench/results.jsonl"))
    assert unmeasured(params, 2) == (1, [])
    assert registry.gate(params).passed


class Away:
    """A store that can be switched off: every call fails as a refused connection does."""

    def __init__(self, monkeypatch):
        from mlflow.exceptions import MlflowException

        self.away, real = True, store.client()

        def client():
            if self.away:
                raise PllavaError("MLflow at http://127.0.0.1:9 does not answer")
            return self

        self.error, self.real = MlflowException, real
        monkeypatch.setattr(tracking, "client", client)

    def __getattr__(self, name):
        if self.away:
            raise self.error("connection refused")
        return getattr(self.real, name)


def curve(run_id, name="loss"):
    return [(point.step, point.value) for point in store.client().get_metric_history(run_id, name)]


def test_what_mlflow_missed_is_delivered_when_it_answers(params, monkeypatch, caplog):
    """Away from the first second to the last: a later stage finds the whole run, under its time and its code."""
    gone = Away(monkeypatch)
    Path("data/prepared").mkdir(parents=True)
    Path("data/prepared/manifest.json").write_text("of then")
    (_, digest) = provenance.dataset_digests(Path.cwd(), params)["prepared"]
    assert train(params) is None
    (kept,) = Path(".state/tracking").glob("*.ledger")
    Path("data/prepared/manifest.json").write_text("of today")
    assert "kept in .state/tracking" in caplog.text
    gone.away = False
    found = tracking.adapter_run(gone, params)
    assert curve(found.info.run_id) == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found.info.status == "FINISHED"
    assert "restored" not in found.data.tags
    assert found.data.params["train.lora.r"] == str(params.train.lora.r)
    assert [item.dataset.digest for item in found.inputs.dataset_inputs if item.dataset.name == "prepared"] == [digest]
    assert not kept.exists()


def test_a_store_that_goes_and_comes_back_misses_nothing(params, monkeypatch):
    gone = Away(monkeypatch)
    gone.away = False
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", -1.0)  # every record is sent at once
    with tracking.training_run(params) as run:
        for step in range(1, 7):
            gone.away = step in (2, 3, 4)
            run._wait = 0.0 if step == 5 else 1e9
            run.log(step, loss=1.0 * step)
            assert (run.connection is None) == gone.away
        assert not list(Path(".state/tracking").glob("*")), "delivered while training goes on"
        write_adapter(b"weights")
    assert sorted(curve(run.run_id)) == [(step, float(step)) for step in range(1, 7)]


def test_a_stopped_training_goes_on_in_its_run(params):
    with pytest.raises(KeyboardInterrupt), tracking.training_run(params) as run:
        for step in (1, 2, 3):
            run.log(step, loss=1.0 * step)
        raise KeyboardInterrupt
    assert store.client().get_run(run.run_id).info.status == "KILLED"
    with tracking.training_run(params, resume=True) as again:
        for step in (3, 4):  # step 3 was done after the checkpoint: it is done again, with the same result
            again.log(step, loss=1.0 * step)
        write_adapter(b"weights")
    assert again.run_id == run.run_id
    assert curve(run.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert store.client().get_run(run.run_id).info.status == "FINISHED"
    with tracking.training_run(params, resume=True) as other:  # a finished run is not written into
        write_adapter(b"others")
    assert other.run_id != run.run_id
