"""`make run`, or `python -m flows.pipeline`: the DVC stages as Prefect tasks, then register, gate, promote, deploy.

Works alone (Prefect starts its API inside the process) and against a server (PREFECT_API_URL).
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import ROOT, decisions
from flows.dag import read_dag
from flows.process import end_all
from flows.stage import run_stage
from pllava.files import read_json
from pllava.registry.card import metrics_table, title


@flow(name="pipeline")
def pipeline(deploy: bool = True) -> Any:
    """Bring every DVC stage up to date, judge the result, and serve it when it is at least as good as the champion.

    Args:
        deploy: start or restart the demo on the champion.
    """
    os.chdir(ROOT)  # the library finds params.yaml and its outputs from here
    try:
        failure, last = run_stages(ROOT)
        if failure:
            return Failed(message=failure)
        publish_metrics(ROOT)
        version = decisions.register.submit(wait_for=last)
        passed = decisions.gate.submit(version)
        champion = decisions.promote.submit(passed)
        steps = [version, passed, champion]
        if deploy:
            steps.append(decisions.deploy.submit(wait_for=[champion]))
        if failure := first_failure(steps):
            return Failed(message=failure)
        return Completed(message=str(champion.result()), data=[step.result() for step in steps])
    except BaseException:  # cancelled or interrupted: tasks are in other threads, where no signal arrives
        end_all()
        raise


def run_stages(root: Path) -> tuple[str | None, list[PrefectFuture[Any]]]:
    """Run each stage of root/dvc.yaml after those it needs.

    Gives the message of the first failure (None when all is up to date), and the futures of the stages that no other one needs.

    Call it in a flow. After a failure the stages that need the failed one are not run; the others are.
    """
    run_id = str(flow_run.get_id() or "")
    futures: dict[str, PrefectFuture[Any]] = {}
    stages = read_dag(root)
    for stage in stages:
        task = run_stage.with_options(description=stage.description)
        futures[stage.name] = task.submit(stage.name, root, run_id, wait_for=[futures[name] for name in stage.needs])
    needed = {name for stage in stages for name in stage.needs}
    return first_failure(list(futures.values())), [future for name, future in futures.items() if name not in needed]


def first_failure(futures: list[PrefectFuture[Any]]) -> str | None:
    """Wait for all; what the first failed one has to say."""
    for future in futures:
        future.wait()
    return next((future.state.message or "failed" for future in futures if future.state.is_failed() or future.state.is_crashed()), None)


def publish_metrics(root: Path) -> None:
    """The numbers as a page of the flow run."""
    found = {path.stem: read_json(path) for path in sorted((root / "metrics").glob("*.json"))}
    parts = [f"## {title(name, metrics)}\n\n{metrics_table(metrics)}\n" for name, metrics in found.items()]
    create_markdown_artifact("\n".join(parts) or "No metrics.", key="metrics", description="Percent, with 95 % intervals")


def main() -> int:
    """Run the pipeline and print what a person wants to know. Exit code 1 when a step failed."""
    from flows.summary import print_failure, print_summary

    # Prefect passes SIGTERM on once it has crashed the flow; left to the system it would end us before Prefect's own server is stopped.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        state = pipeline(return_state=True)
    except KeyboardInterrupt:
        return 130
    if not state.is_completed():
        print_failure(state.message or state.name)
        return 1
    print_summary(ROOT, state.result())
    return 0


if __name__ == "__main__":
    sys.exit(main())
