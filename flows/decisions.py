"""The steps after the stages: register, measure, gate, promote, roll back, deploy. Each changes something outside the workspace, never
a DVC output."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from prefect import Task, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from flows import links, retry
from flows.stage import LAST_LINES, environment
from pllava.core.command import stream
from pllava.core.errors import PllavaError
from pllava.core.params import load_params
from pllava.registry.promote import Champion

# Options of the tasks that may run twice. Prefect must not cache them: DVC and the registry decide what is out of date.
RETRIED = {
    "retries": len(retry.DELAYS),
    "retry_delay_seconds": retry.DELAYS,
    "retry_condition_fn": retry.may_pass,
    "cache_policy": NO_CACHE,
}
# A number, None for the candidate, or the future of an earlier task that returns a number.
Version: TypeAlias = int | PrefectFuture[Any] | None


def after(step: Task[..., Any], before: PrefectFuture[Any], *arguments: Any) -> PrefectFuture[Any]:
    """Submit a step whose first argument is the future `before`. The step is not run when `before` failed.

    `quote` keeps Prefect from resolving the future before it names the step: a step that is not run would show as "gate-3d6".
    """
    return step.submit(quote(before), *arguments, wait_for=[before])


def _number(version: Version) -> int | None:
    number = version.result() if isinstance(version, PrefectFuture) else version
    return None if number is None else int(number)


@task(task_run_name="register", **RETRIED)
def register() -> Any:
    """The trained adapter becomes a version (the same adapter stays the same version)."""
    from pllava import registry

    def add() -> int:
        number = registry.register(load_params())
        links.tag(f"version {number}")
        create_markdown_artifact(links.version_line(number), key="version", description=f"Version {number}")
        return number

    return _attempt(add, "version {}")


@task(task_run_name="measure", **RETRIED)
def measure(version: Version, root: Path, flow_run_id: str = "") -> Any:
    """Score the champion as the new version was scored, if the test set, a template or the judge has changed. Else Cached, at once."""
    from pllava.registry.measurements import unmeasured

    number = _number(version)
    assert number is not None
    params = load_params()
    champion, benchmarks = unmeasured(params, number)
    if not benchmarks:
        known = (
            f"champion {champion} is measured on what version {number} was" if champion else "there is no other champion to compare with"
        )
        return Completed(name="Cached", message=known, data=number)
    model = f"models:/{params.registry.model_name}/{champion}"
    command = [sys.executable, "-m", "pllava.cli", "evaluate", *benchmarks, "--model", model]
    code, last = stream(command, root, environment(flow_run_id), get_run_logger().info)
    if code:
        return Failed(
            message=f"champion {champion} could not be measured on {', '.join(benchmarks)}. The last lines:\n"
            + "\n".join(last[-LAST_LINES:])
        )
    return Completed(message=f"champion {champion} measured on {', '.join(benchmarks)}", data=number)


@task(task_run_name="gate", **RETRIED)
def gate(version: Version) -> Any:
    """Compared with the champion; a version that is not known to be as good fails this task."""
    from pllava import registry

    version = _number(version)

    def compare() -> Any:
        result = registry.gate(load_params(), version)
        reasons = "\n".join(f"- {reason}" for reason in result.reasons)
        verdict = "passed" if result.passed else "not passed"
        links.tag(f"version {result.version}", f"gate {verdict}")
        page = f"{result.table}\n\n**{verdict}**\n\n{reasons}\n\n{links.version_line(result.version)}\n"
        create_markdown_artifact(page, key="gate", description=f"Version {result.version}: {verdict}")
        if not result.passed:
            raise PllavaError(
                f"version {version} did not pass the gate and stays a candidate; the champion is unchanged:\n{reasons}\n"
                "What it can do: outputs/report/report.md. "
                f"To promote it all the same: pllava promote --version {version} --force --reason TEXT"
            )
        return result.version

    return _attempt(compare, "version {} passed")


@task(task_run_name="promote", **RETRIED)
def promote(version: Version, force: bool = False, reason: str | None = None) -> Any:
    """The alias `champion` moves to the version that passed."""
    from pllava import registry

    return _attempt(lambda: _tagged(registry.promote(load_params(), _number(version), force, reason)), "{}")


@task(task_run_name="rollback", cache_policy=NO_CACHE)
def rollback() -> Any:
    """The alias `champion` goes back. Never retried: a second rollback would undo the first."""
    from pllava import registry

    return _attempt(lambda: _tagged(registry.rollback(load_params())), "{}")


@task(task_run_name="deploy", cache_policy=NO_CACHE)
def deploy() -> Any:
    """The demo serves the champion and has answered a question about a held-out clip."""
    from pllava.services.deploy import deploy

    return _attempt(lambda: deploy(load_params()), "{.url} serves it")


def _tagged(champion: Champion) -> Champion:
    links.tag(f"version {champion.version}", "champion")
    return champion


def _attempt(decide: Callable[[], Any], message: str) -> Any:
    """Completed with `message`, formatted with what `decide` returns. Failed with the sentence of a PllavaError, without a traceback."""
    try:
        outcome = decide()
    except PllavaError as error:
        get_run_logger().error(str(error))
        return Failed(message=str(error))
    return Completed(message=message.format(outcome), data=outcome)
