"""One point of a sweep as one task: trained once in a workspace of its own, and scored at each LoRA strength. A finished point is kept."""

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
from flows.stage import LAST_LINES, environment
from flows.stages import with_needed
from pllava.artifacts.metrics import read_metrics
from pllava.artifacts.training import ADAPTER
from pllava.core.command import stream
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir, read_json, write_json
from pllava.core.overrides import compose
from pllava.core.worktrees import workspace
from pllava.trials.points import Point

DONE = "rows.json"  # written last into the point's folder: a point that has it is finished


@task(name="point", task_run_name="{title}", cache_policy=NO_CACHE)
def run_point(
    root: Path, home: Path, name: str, title: str, point: Point, alphas: list[float], benchmark: str, limit: int | None, run_id: str
) -> State[Any]:
    """Completed when the point ran, Cached when it was finished before. The state's data: the table's rows, one for each strength."""
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
    with workspace(root, f"sweep-{name}-{point.key}") as folder:
        params = compose(None, point.changes, folder.root / "params.yaml")
        env = environment(run_id, folder.environment())
        stages = read_dag(folder.root)
        wanted = with_needed(stages, ["train"])
        shared = [stage.name for stage in stages if stage.name in wanted and stage.name != "train"]
        # Points may share clips or features: the first point makes them, and the others get them from DVC's cache.
        with FileLock(home / "shared.lock"):
            for stage in shared:
                _dvc(stage, folder.root, env)
        _dvc("train", folder.root, env)
        trained_alpha = float(read_json(folder.root / ADAPTER / "adapter_config.json")["lora_alpha"])
        rows = []
        with atomic_dir(home / point.key) as kept:
            for alpha in sorted({trained_alpha, *alphas}) if alphas else [trained_alpha]:
                output = kept / f"alpha-{alpha:g}"
                command = [sys.executable, "-m", "pllava.cli", "evaluate", benchmark, "--model", str(ADAPTER)]
                command += ["--lora-alpha", str(alpha), "--output", str(output), *(("--limit", str(limit)) if limit else ())]
                _run_logged(command, folder.root, env, f"the evaluation at alpha {alpha:g}")
                metrics = read_metrics(output / benchmark / "metrics.json")
                adapted = metrics["models"]["adapted"]
                rows.append(
                    {
                        "key": point.key,
                        "title": point.title,
                        "settings": point.settings,
                        "alpha": alpha,
                        "trained_alpha": trained_alpha,
                        "pooling_shape": list(params.model.pooling_shape),
                        "benchmark": benchmark,
                        "average": adapted["average"],
                        "tasks": adapted["tasks"],
                        "n": metrics["provenance"]["n_questions"],
                        "adapter_sha256": metrics["provenance"]["adapter_sha256"],
                        "files": [f"alpha-{alpha:g}/{benchmark}/{file}" for file in ("metrics.json", "results.jsonl")],
                    }
                )
            shutil.copytree(folder.root / ADAPTER, kept / "adapter")
            write_json(kept / DONE, rows)
    return rows


def register(root: Path, name: str, point: Point, alpha: float, run_id: str) -> int:
    """Register a point as a version of the model, with its best LoRA strength. Returns the number of the version.

    Runs all stages in a new workspace: the training comes from DVC's cache, and every benchmark is measured as in the pipeline. Then runs
    `pllava register` there. Raises PllavaError with the last lines of a command that fails.
    """
    with workspace(root, f"sweep-{name}-best") as folder:
        compose(None, point.changes, folder.root / "params.yaml")
        compose(None, {"evaluate": {"lora_alpha": alpha}}, folder.root / "params.yaml")
        env = environment(run_id, folder.environment())
        for stage in read_dag(folder.root):
            _dvc(stage.name, folder.root, env)
        last = _run_logged([sys.executable, "-m", "pllava.cli", "register"], folder.root, env, "the registration")
        return int(last[-1])


def _dvc(stage: str, root: Path, env: dict[str, str]) -> None:
    _run_logged([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage], root, env, f"stage {stage}")


def _run_logged(command: list[str], root: Path, env: dict[str, str], step: str) -> list[str]:
    """Run a command and log its lines. Returns the last lines; raises PllavaError with them when the command fails. step: its name."""
    code, last = stream(command, root, env, get_run_logger().info)
    if code:
        raise PllavaError(f"{step} failed (exit code {code}). Its last lines:\n" + "\n".join(last[-LAST_LINES:]))
    return last
