"""Try settings: every combination or a list of them, each trained in a workspace of its own, each scored at several LoRA strengths.

Finished points are kept under .state/sweeps/NAME. A sweep that was stopped and is started again runs only the remaining points.
"""

import base64
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows import ROOT, form, links
from flows.failure import tell
from flows.point import register, run_point
from flows.runner import Runner as Kind
from flows.runner import task_runner
from flows.server import served
from pllava.core.command import accept, end_all
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text, read_json, write_json
from pllava.core.hashing import sha256_of
from pllava.core.params import load_params
from pllava.registry.result_sources import SOURCES
from pllava.trials.points import Grid, Point, points

HOME = Path(".state/sweeps")
Strengths = Annotated[
    list[Annotated[float, Field(ge=0, le=1024)]], Field(max_length=50), form.titled("LoRA strengths (alpha) at inference")
]
Listed = Annotated[list[dict[str, Any]], Field(max_length=1000), form.titled("Points, beside the grid")]
Runner = Annotated[Kind, form.titled("Runner")]
Workers = Annotated[int, Field(ge=1, le=256), form.titled("Points at once")]
Limit = Annotated[int | None, Field(ge=1), form.titled("Questions of each task")]
Benchmark = Annotated[str, form.titled("Benchmark", enum=form.BENCHMARKS)]
Name = Annotated[str | None, Field(max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$"), form.titled("Name")]


@served
@flow(name="sweep", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def sweep(
    grid: Grid = Grid(),  # noqa: B008
    listed: Listed = [],  # noqa: B006
    alphas: Strengths = [],  # noqa: B006
    benchmark: Benchmark = form.BENCHMARKS[0],
    limit: Limit = None,
    runner: Runner = "thread",
    workers: Workers = 1,
    register_best: Annotated[bool, form.titled("Register the best")] = False,
    name: Name = None,
) -> Any:
    """Train and score every point; one table and one chart at the end. Started again after it was stopped, it goes on.

    Args:
        grid: lists of values; every combination is a point
        listed: points of their own, each {"train.lora.r": 8, ...}
        alphas: each trained point is also scored at each of these strengths; nothing is trained again
        benchmark: what the points are scored on
        limit: only the first so many questions, for a look
        runner: thread or process on this machine, ray on a cluster
        workers: points at once; each trains with train.threads threads
        register_best: the best point becomes a version and the candidate; the gate and the promotion are yours
        name: left empty, it follows from the points; the same name goes on with the same sweep
    """
    os.chdir(ROOT)
    try:
        return _sweep(grid, listed, alphas, benchmark, limit, runner, workers, register_best, name)
    except PllavaError as error:
        get_run_logger().error(str(error))
        return Failed(message=str(error))
    finally:
        accept()


def _sweep(
    grid: Grid,
    listed: list[dict[str, Any]],
    alphas: list[float],
    benchmark: str,
    limit: int | None,
    runner: Kind,
    workers: int,
    register_best: bool,
    name: str | None,
) -> Any:
    from pllava.tracking import provenance
    from pllava.trials import sweep_report
    from pllava.trials import sweep_runs as sweeps

    params = load_params()
    todo = points(params, grid, listed)
    requested = {"points": sorted(point.key for point in todo), "alphas": sorted(set(alphas)), "benchmark": benchmark, "limit": limit}
    digest = sha256_of([requested, _code()])[:8]
    home = ROOT / HOME / (f"{name}-{digest}" if name else digest)  # other code or other points make another sweep
    home.mkdir(parents=True, exist_ok=True)
    record = home / "sweep.json"
    known = read_json(record).get("run_id") if record.is_file() else None
    tags = {"params_sha256": provenance.params_sha256(params), "flow_run_id": str(flow_run.get_id() or "")}
    run_id = sweeps.parent(params, ROOT, home.name, known, tags)
    write_json(record, requested | {"run_id": run_id, "settings": {point.key: point.settings for point in todo}})
    get_run_logger().info("sweep %s: %d points in %s", home.name, len(todo), home.relative_to(ROOT))
    try:
        rows, failures = run_points.with_options(task_runner=task_runner(runner, workers))(
            ROOT, home, todo, alphas, benchmark, limit, str(flow_run.get_id() or "")
        )
    except BaseException as error:  # cancelled, or no runner
        with suppress(Exception):
            sweeps.finish(run_id, None, {}, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    for row in rows:
        sweeps.child(params, run_id, row, [home / row["key"] / file for file in row["files"]])
    if not rows:
        sweeps.finish(run_id, None, {}, "FAILED")
        return Failed(message="no point was finished:\n" + "\n".join(failures))
    report = home / "report"
    sweep_report.chart(rows, benchmark, report / "chart.png")
    text = sweep_report.table(rows, benchmark, home.relative_to(ROOT))
    atomic_write_text(report / "table.md", text + "\n")
    write_json(report / "table.json", rows)
    write_json(home / SOURCES, sweep_report.sources(rows))
    first = sweep_report.best(rows)
    sweeps.finish(run_id, report, {f"{benchmark}/best": first["average"]["value"]}, "FAILED" if failures else "FINISHED")
    picture = base64.b64encode((report / "chart.png").read_bytes()).decode()
    line = links.parent_line(params, run_id)
    create_markdown_artifact(
        f"{text}\n\n{line}\n", key="sweep-table", description=f"{home.name}: {benchmark}, percent, with 95 % intervals"
    )
    create_image_artifact(f"data:image/png;base64,{picture}", key="sweep-chart", description="Against pooling shape and against alpha")
    if failures:
        return Failed(message=f"{len(failures)} of {len(todo)} points failed; start it again to go on:\n" + "\n".join(failures))
    message = (
        f"best: {first['title']}, alpha {first['alpha']:g}, {100 * first['average']['value']:.1f} %. {report.relative_to(ROOT)}/table.md"
    )
    if register_best:
        point = next(point for point in todo if point.key == first["key"])
        number = register(ROOT, home.name, point, first["alpha"], str(flow_run.get_id() or ""))
        links.tag(f"version {number}")
        message += f"; registered as version {number}"
    return Completed(message=message, data=rows)


@flow(name="points")
def run_points(
    root: Path, home: Path, todo: list[Point], alphas: list[float], benchmark: str, limit: int | None, run_id: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the points. Returns the rows of the finished points, in order, and a message for each point that failed."""
    futures = [run_point.submit(root, home, home.name, point.title, point, alphas, benchmark, limit, run_id) for point in todo]
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    try:
        for point, future in zip(todo, futures, strict=True):
            future.wait()
            if future.state.is_completed():
                rows += future.result()
            else:
                failures.append(f"{point.title}: {future.state.message or future.state.name}")
    except BaseException:  # cancelled: Prefect leaves this flow only after its running points, and would start the waiting ones
        end_all(refuse=True)
        raise
    return rows, failures


def _code() -> str:
    """The commit and the uncommitted changes of the code, as text. A finished point counts only for the code that made it."""
    from pllava.core import git

    try:
        diff = git.run(ROOT, "diff", "HEAD", "--", "pllava", "flows")
        return f"{git.commit(ROOT)} {diff}"
    except PllavaError:  # no repository
        return ""
