"""`python -m flows.deployments`, called by `make up`: make the work pool, register prefect.yaml's deployments, mark runs that were cut off.

A schedule that was switched on in the UI stays on; a new schedule of prefect.yaml is off.
"""

import subprocess
import sys
from contextlib import suppress

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from flows import ROOT
from pllava.services.programs import POOL


def main() -> int:
    with get_client(sync_client=True) as client:
        mark_cut_off_runs(client)
        template = ProcessWorker.get_default_base_job_template()
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        known = [(deployment, schedule) for deployment in deployments(client) for schedule in deployment.schedules]
        switched_on = {(deployment.name, schedule.slug) for deployment, schedule in known if schedule.active}
        done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], cwd=ROOT, stdin=subprocess.DEVNULL)
        if done.returncode:
            return done.returncode
        for deployment in deployments(client):
            for schedule in deployment.schedules:
                if (deployment.name, schedule.slug) in switched_on and not schedule.active:
                    client.update_deployment_schedule(deployment.id, schedule.id, active=True)
    return 0


def deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    return client.read_deployments(limit=200)


def mark_cut_off_runs(client: SyncPrefectClient) -> None:
    """Mark unfinished runs of the work pool as crashed. Call it while no worker runs: such a run was cut off, and would block the queue."""
    unfinished = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING, StateType.PENDING])
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=unfinished)), limit=200):
        if run.work_pool_name == POOL:
            client.set_flow_run_state(run.id, Crashed(message="The services stopped while it ran"), force=True)
            print(f"{run.name}: was cut off")


if __name__ == "__main__":
    sys.exit(main())
