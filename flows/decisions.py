"""What follows the stages, each with an effect outside the workspace: register, gate, promote, deploy. Never DVC outputs."""

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows import retry
from pllava.errors import PllavaError
from pllava.params import load_params

RETRIED = {"retries": len(retry.DELAYS), "retry_delay_seconds": retry.DELAYS, "retry_condition_fn": retry.may_pass}  # all may be repeated


@task(task_run_name="register", **RETRIED)
def register() -> Any:
    """The trained adapter becomes a version (the same adapter stays the same version)."""
    from pllava import registry

    return _attempt(lambda: registry.register(load_params()), "version {}")


@task(task_run_name="gate", **RETRIED)
def gate(version: int | None) -> Any:
    """Compared with the champion; a version that is not known to be as good fails this task."""
    from pllava import registry

    def compare() -> Any:
        result = registry.gate(load_params(), version)
        reasons = "\n".join(f"- {reason}" for reason in result.reasons)
        verdict = "passed" if result.passed else "not passed"
        create_markdown_artifact(f"{result.table}\n\n**{verdict}**\n\n{reasons}\n", key="gate", description=f"Version {version}: {verdict}")
        if not result.passed:
            raise PllavaError(
                f"version {version} did not pass the gate and stays a candidate; the champion is unchanged:\n{reasons}\n"
                "What it can do: outputs/report/report.md. "
                f"To promote it all the same: pllava promote --version {version} --force --reason TEXT"
            )
        return result.version

    return _attempt(compare, "version {} passed")


@task(task_run_name="promote", **RETRIED)
def promote(version: int | None, force: bool = False, reason: str | None = None) -> Any:
    """The alias `champion` moves to the version that passed."""
    from pllava import registry

    return _attempt(lambda: registry.promote(load_params(), version, force, reason), "{}")


@task(task_run_name="rollback")
def rollback() -> Any:
    """The alias `champion` goes back; twice is not once, so this is never tried again."""
    from pllava import registry

    return _attempt(lambda: registry.rollback(load_params()), "{}")


@task(task_run_name="deploy")
def deploy() -> Any:
    """The demo serves the champion and has answered a question about a held-out clip."""
    from pllava.app.deploy import deploy

    return _attempt(lambda: deploy(load_params()), "{.url} serves it")


def _attempt(decide: Callable[[], Any], said: str) -> Any:
    """A PllavaError becomes a failed state that says what to do, without a traceback."""
    try:
        outcome = decide()
    except PllavaError as error:
        get_run_logger().error(str(error))
        return Failed(message=str(error))
    return Completed(message=said.format(outcome), data=outcome)
