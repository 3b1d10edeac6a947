"""`make run`, or `python -m flows.pipeline`: the DVC stages as Prefect tasks, then register, measure, gate, promote, deploy.

Uses the Prefect server of PREFECT_API_URL or of `make up`; else it starts a server and stops it at the end (server.py).
"""

import os
import signal
import sys
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import ROOT, decisions, form, server
from flows.experiment import is_other, run_experiment
from flows.failure import tell
from flows.server import served
from flows.stages import first_failure, publish_metrics, run_stages
from pllava.core.command import end_all
from pllava.core.errors import PllavaError
from pllava.core.overrides import Overrides, set_values
from pllava.core.params import load_params
from pllava.core.worktrees import main_workspace


@served
@flow(name="pipeline", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def pipeline(recipe: form.Recipe = form.AS_IT_STANDS, overrides: Overrides = Overrides(), deploy: form.Deploy = True) -> Any:  # noqa: B008
    """Bring every DVC stage up to date, judge the result, and serve it when it is at least as good as the champion.

    With another recipe or overrides: the same stages in a workspace of their own, kept as a DVC experiment; the champion stays.

    Args:
        recipe: the settings to start from
        overrides: what this run has otherwise; what is left empty stays as in the recipe
        deploy: start or restart the demo on the champion (not for an experiment)
    """
    os.chdir(ROOT)  # the library finds params.yaml and its outputs from here
    try:
        changes = set_values(overrides)
        if changes or is_other(recipe):
            return run_experiment(recipe, changes)
        with main_workspace(ROOT, f"flow run {flow_run.get_name()}", get_run_logger().info):
            return run_in_project(deploy)
    except PllavaError as error:
        return Failed(message=str(error))
    except BaseException:  # cancelled or interrupted: the tasks are in other threads, where no signal arrives
        end_all()
        raise


def run_in_project(deploy: bool) -> Any:
    """Run the stages in the project folder, then the decisions. Returns the final state. Steps after a failure show as not run."""
    load_params()  # before DVC reads params.yaml: raises PllavaError with every problem in it
    failure, last = run_stages(ROOT)
    if not failure:
        publish_metrics(ROOT)
    version = decisions.register.submit(wait_for=last)
    measured = decisions.after(decisions.measure, version, ROOT, str(flow_run.get_id() or ""))
    passed = decisions.after(decisions.gate, measured)
    champion = decisions.after(decisions.promote, passed)
    served = [decisions.deploy.submit(wait_for=[champion])] if deploy else []
    if failure := first_failure([version, measured, passed, champion, *served]) or failure:
        return Failed(message=failure)
    return Completed(message=str(champion.result()), data=[step.result() for step in (version, passed, champion, *served)])


def main() -> int:
    """Run the pipeline and print its result. Returns the exit code: 0, 1 when a step failed, 130 at Ctrl-C."""
    from flows.summary import print_failure, print_summary

    # At SIGTERM Prefect marks the flow as crashed and sends the signal on. Its default action would end us before our server is stopped.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        with server.api():
            state = pipeline(return_state=True)
    except KeyboardInterrupt:
        return 130
    except PllavaError as error:
        print_failure(str(error))
        return 1
    if not state.is_completed():
        print_failure(state.message or state.name)
        return 1
    print_summary(ROOT, state.result())
    return 0


if __name__ == "__main__":
    sys.exit(main())
