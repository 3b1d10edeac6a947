"""The flow that measures one benchmark, or all. It trains only when the trained model is out of date."""

import os
import sys
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows import ROOT, form, retry
from flows.experiment import run_experiment
from flows.failure import tell
from flows.server import served
from flows.stage import LAST_LINES, environment
from flows.stages import first_failure, publish_metrics, run_stages
from pllava.core.command import end_all, stream
from pllava.core.errors import PllavaError
from pllava.core.params import load_params
from pllava.core.worktrees import main_workspace

Limit = Annotated[int | None, Field(ge=1), form.titled("Questions of each task")]
Alpha = Annotated[float | None, Field(ge=0, le=1024), form.titled("LoRA strength (alpha)")]


@served
@flow(name="evaluate", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def evaluate(benchmark: form.Benchmark = form.ALL, limit: Limit = None, lora_alpha: Alpha = None) -> Any:
    """Score the base, one frame, and the adapted model on a benchmark.

    Args:
        benchmark: one of evaluate.benchmarks in params.yaml, or all of them
        limit: only the first so many, into outputs/limited: a look, which counts for nothing
        lora_alpha: strength at inference instead of evaluate.lora_alpha; kept as a DVC experiment, nothing is trained again
    """
    os.chdir(ROOT)
    try:
        known = list(load_params().evaluate.benchmarks)
        if benchmark not in (form.ALL, *known):  # the form was made at the last `make up`; params.yaml may have changed since
            return Failed(message=f"benchmark: params.yaml has no {benchmark!r} under evaluate.benchmarks; it has: {', '.join(known)}")
        chosen = known if benchmark == form.ALL else [benchmark]
        stages = [f"evaluate@{name}" for name in chosen]
        if lora_alpha is not None:
            if limit is not None:
                return Failed(message="limit: a look at the first questions takes the strength of params.yaml; leave one of the two empty")
            return run_experiment(form.AS_IT_STANDS, {"evaluate": {"lora_alpha": lora_alpha}}, stages)
        with main_workspace(ROOT, f"flow run {flow_run.get_name()}", get_run_logger().info):
            if limit is not None:
                failure = first_failure([look.submit(name, limit, str(flow_run.get_id())) for name in chosen])
            else:
                failure, _ = run_stages(ROOT, only=stages)
                if not failure:
                    publish_metrics(ROOT)
            return Failed(message=failure) if failure else Completed(message=f"measured {', '.join(chosen)}")
    except PllavaError as error:
        return Failed(message=str(error))
    except BaseException:
        end_all()
        raise


@task(task_run_name="look at {benchmark}", retries=len(retry.DELAYS), retry_delay_seconds=retry.DELAYS, retry_condition_fn=retry.may_pass)
def look(benchmark: str, limit: int, flow_run_id: str) -> State[Any]:
    """`pllava evaluate BENCHMARK --limit N`; its table becomes a page of the run."""
    command = [sys.executable, "-m", "pllava.cli", "evaluate", benchmark, "--limit", str(limit)]
    code, last = stream(command, ROOT, environment(flow_run_id), get_run_logger().info)
    text = "\n".join(last)
    if code:
        return Failed(message=f"pllava evaluate {benchmark} failed. Its last lines:\n" + "\n".join(last[-LAST_LINES:]))
    create_markdown_artifact(f"```text\n{text}\n```", key=f"look-{benchmark.replace('_', '-').lower()}", description=f"{limit} a task")
    return Completed(message=f"{benchmark}: {limit} questions of each task")
