"""From a champion to its successor: `train.init_from: models:/pllava@champion`, on a real MLflow store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pllava import registry
from pllava.core.files import read_json, write_json
from pllava.core.params import Params
from pllava.tracking import store
from tests.unit.conftest import corpus, prepared, prepared_data, project  # noqa: F401  fixtures

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def history() -> list[dict[str, float]]:
    return [json.loads(line) for line in Path("outputs/train/history.jsonl").read_text().splitlines()]


def test_the_first_evaluation_is_the_champions(
    prepared: Callable[..., Params],  # noqa: F811
    mlflow_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pllava.stages.train.loop import run

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    shutil.copytree(mlflow_template, store.MLFLOW_HOME)
    params = prepared()
    Path("params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    run(params)
    source = history()[-1]["val_loss"]
    digest = read_json("outputs/train/adapter/manifest.json")["adapter_sha256"]
    score = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 50, "chance": 0.5}
    provenance = {"data_sha256": "d" * 64, "template_sha256": "t" * 64, "adapter_sha256": digest}
    models = {name: {"average": score, "tasks": {"Moving Direction": score}} for name in ("base", "single_frame", "adapted")}
    write_json("metrics/mvbench.json", {"benchmark": "mvbench", "provenance": provenance, "models": models})
    asked = {"id": "0", "task": "Moving Direction", "media": "0.mp4", "start": None, "end": None, "question": "Where to?"}
    answer = asked | {"candidates": ["left", "right"], "answer": "(A) left", "prediction": "(A) left", "correct": True, "error": None}
    Path("outputs/evaluate/mvbench").mkdir(parents=True)
    Path("outputs/evaluate/mvbench/results.jsonl").write_text("".join(json.dumps({"model": name} | answer) + "\n" for name in models))
    registry.register(params)
    assert registry.gate(params).passed
    registry.promote(params)

    run(prepared(train={"init_from": "models:/pllava@champion"}))
    assert history()[0] == {"step": 0, "val_loss": source}
    assert history()[-1]["val_loss"] < source
    torch.use_deterministic_algorithms(False)

    connection = store.client()
    (first, second) = sorted(
        connection.search_runs([store.experiment_id(connection, params.registry.experiment)]), key=lambda found: found.info.start_time
    )
    assert second.data.params["train.init_from"] == "models:/pllava@champion"
    for name in ("loss", "val_loss", "lr", "grad_norm", "samples_per_second", "tokens_per_second", "data_wait", "peak_memory_mb"):
        assert name in first.data.metrics
    assert any(name.startswith("system/cpu") for name in first.data.metrics)
    artifacts = {item.path for item in connection.list_artifacts(first.info.run_id, "train")}
    assert {"train/summary.md", "train/loss.png"} <= artifacts
