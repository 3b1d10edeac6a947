"""One point of a sweep as one task: in a workspace of its own, trained once, scored at each strength. What is done is kept."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows.dag import read_dag
from flows.process import stream
from flows.stage import LAST_LINES, environment
from flows.stages import with_needed
from pllava.artifacts.metrics import read_metrics
from pllava.artifacts.training import ADAPTER
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir, read_json, write_json
from pllava.core.overrides import compose
from pllava.core.worktrees import workspace
from pllava.trials.points import Point

DONE = "rows.json"  # in the point's folder, written last


@task(name="point", task_run_name="{title}", cache_policy=NO_CACHE)
def run_point(
    root: Path, home: Path, name: str, title: str, point: Point, alphas: list[float], benchmark: str, limit: int | None, run_id: str
) -> State[Any]:
    """Completed when it ran, Cached when it was done before; its data are the rows of the table, one a strength."""
    target = home / point.key
    if (target / DONE).is_file():
        return Completed(name="Cached", message="done before", data=read_json(target / DONE))
    try:
        rows = _run(root, home, name, point, alphas, benchmark, limit, run_id)
    except PllavaError as error:
        get_run_logger().error(str(error))
        return Failed(message=str(error))
    return Completed(message=", ".join(f"alpha {row['alpha']:g}: {100 * row['average']['value']:.1f} %" for row in rows), data=rows)


def _run(
    root: Path, home: Path, name: str, point: Point, alphas: list[float], benchmark: str, limit: int | None, run_id: str
) -> list[dict[str, Any]]:
    with workspace(root, f"sweep-{name}-{point.key}") as place:
        params = compose(None, point.changes, place.root / "params.yaml")
        env = environment(run_id, place.environment())
        stages = read_dag(place.root)
        wanted = with_needed(stages, ["train"])
        shared = [stage.name for stage in stages if stage.name in wanted and stage.name != "train"]
        with FileLock(
            home / "shared.lock"
        ):  # points that share clips or features: the first makes them, the others find them in DVC's cache
            for stage in shared:
                _dvc(stage, place.root, env)
        _dvc("train", place.root, env)
        trained = float(read_json(place.root / ADAPTER / "adapter_config.json")["lora_alpha"])
        rows = []
        with atomic_dir(home / point.key) as kept:
            for alpha in sorted({trained, *alphas}) if alphas else [trained]:
                output = kept / f"alpha-{alpha:g}"
                command = [sys.executable, "-m", "pllava.cli", "evaluate", benchmark, "--model", str(ADAPTER)]
                command += ["--lora-alpha", str(alpha), "--output", str(output), *(("--limit", str(limit)) if limit else ())]
                _say(command, place.root, env, f"the evaluation at alpha {alpha:g}")
                found = read_metrics(output / benchmark / "metrics.json")
                adapted = found["models"]["adapted"]
                rows.append(
                    {
                        "key": point.key,
                        "title": point.title,
                        "settings": point.settings,
                        "alpha": alpha,
                        "trained_alpha": trained,
                        "pooling_shape": list(params.model.pooling_shape),
                        "benchmark": benchmark,
                        "average": adapted["average"],
                        "tasks": adapted["tasks"],
                        "n": found["provenance"]["n_questions"],
                        "adapter_sha256": found["provenance"]["adapter_sha256"],
                        "files": [f"alpha-{alpha:g}/{benchmark}/{file}" for file in ("metrics.json", "results.jsonl")],
                    }
                )
            shutil.copytree(place.root / ADAPTER, kept / "adapter")
            write_json(kept / DONE, rows)
    return rows


def register(root: Path, name: str, point: Point, alpha: float, run_id: str) -> int:
    """The point as a version of the model, with the strength that was best for it: its stages again (training comes from DVC's cache), all
    benchmarks measured as the pipeline does, then `pllava register` in its workspace. The version's number."""
    with workspace(root, f"sweep-{name}-best") as place:
        compose(None, json.loads(json.dumps(point.changes)), place.root / "params.yaml")
        compose(None, {"evaluate": {"lora_alpha": alpha}}, place.root / "params.yaml")
        env = environment(run_id, place.environment())
        for stage in read_dag(place.root):
            _dvc(stage.name, place.root, env)
        last = _say([sys.executable, "-m", "pllava.cli", "register"], place.root, env, "the registration")
        return int(last[-1])


def _dvc(stage: str, root: Path, env: dict[str, str]) -> None:
    _say([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage], root, env, f"stage {stage}")


def _say(command: list[str], root: Path, env: dict[str, str], what: str) -> list[str]:
    """Run it, its lines into the log; its last lines. Raises PllavaError with them when it fails."""
    code, last = stream(command, root, env, get_run_logger().info)
    if code:
        raise PllavaError(f"{what} failed (exit code {code}). Its last lines:\n" + "\n".join(last[-LAST_LINES:]))
    return last
