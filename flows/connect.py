"""`connect(...)`: moving the alias `champion` in MLflow's pages redeploys the demo. `make up` calls it; calling it again changes nothing.

    python -m flows.connect --mlflow http://127.0.0.1:5000 --prefect http://127.0.0.1:4200 --bridge http://127.0.0.1:5010

MLflow gets a webhook that tells the bridge (pllava/services/bridge.py); Prefect gets an automation that runs the deployment `deploy/deploy`
when the bridge's event comes in. The three servers must run, and the deployment must exist. The MLflow server needs the variables of
`bridge.mlflow_environment`.
"""

import argparse
import os
from pathlib import Path

from flows import ROOT
from pllava.core.errors import PllavaError
from pllava.services import bridge

WEBHOOK = "pllava-bridge"
MOVED = "model_version_alias.created"  # MLflow sends this event also when an existing alias is moved
AUTOMATION = "pllava: the champion moved"
DEPLOYMENT = "deploy/deploy"


def connect(mlflow_url: str, prefect_url: str, bridge_url: str, root: Path = ROOT) -> None:
    """Register the webhook and the automation, or update them. Raises PllavaError when a server does not answer or has no deployment."""
    from pllava.core.params import load_params

    register_webhook(mlflow_url, bridge_url, root)
    register_automation(prefect_url, load_params(root / "params.yaml").registry.model_name)


def register_webhook(mlflow_url: str, bridge_url: str, root: Path) -> None:
    """Leave exactly one webhook named WEBHOOK in MLflow, with this project's secret and the bridge's current address."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(mlflow_url, mlflow_url)
    wanted = f"{bridge_url.rstrip('/')}{bridge.PATH}"
    try:
        webhooks = [webhook for webhook in client.list_webhooks(max_results=1000) if webhook.name == WEBHOOK]
        for extra in webhooks[1:]:
            client.delete_webhook(extra.webhook_id)
        if webhooks:
            client.update_webhook(webhooks[0].webhook_id, url=wanted, events=[MOVED], secret=bridge.secret(root), status="ACTIVE")
        else:
            text = "Tells Prefect that the champion moved, so that the demo serves it"
            client.create_webhook(WEBHOOK, wanted, [MOVED], text, bridge.secret(root), "ACTIVE")
    except MlflowException as error:
        raise PllavaError(
            f"MLflow at {mlflow_url} takes no webhook: {error}\nIt has to be started with pllava.services.bridge.mlflow_environment"
        ) from None


def register_automation(prefect_url: str, model: str) -> None:
    """Replace the automation named AUTOMATION by one that runs the current deployment."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events import AutomationCore, EventTrigger, Posture, RunDeployment
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"{prefect_url.rstrip('/')}/api"}), get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            raise PllavaError(f"Prefect at {prefect_url} has no deployment {DEPLOYMENT}. Run: python -m flows.deployments") from None
        except httpx.HTTPError as error:
            raise PllavaError(f"Prefect at {prefect_url} does not answer: {error}") from None
        version = {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": "{{ event.payload['version'] }}"}}
        wanted = AutomationCore(
            name=AUTOMATION,
            description="MLflow says by webhook that the alias was moved; the demo serves the new champion",
            trigger=EventTrigger(
                expect={bridge.EVENT}, match={"prefect.resource.id": bridge.resource(model)}, posture=Posture.Reactive, threshold=1
            ),  # type: ignore[call-arg]
            actions=[RunDeployment(deployment_id=deployment.id, parameters={"version": version})],
        )
        for known in client.read_automations_by_name(AUTOMATION):
            client.delete_automation(known.id)
        client.create_automation(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.connect", description="A champion made in MLflow's pages is served")
    for name, example in {"mlflow": 5000, "prefect": 4200, "bridge": 5010}.items():
        parser.add_argument(f"--{name}", required=True, metavar="URL", help=f"http://127.0.0.1:{example}")
    arguments = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = arguments.mlflow
    connect(arguments.mlflow, arguments.prefect, arguments.bridge)
    print("connected: a champion made in MLflow is served")


if __name__ == "__main__":
    main()
