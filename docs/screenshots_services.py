"""Take docs/{form,flow,runs,registry}.png: `make up && python docs/screenshots_services.py [form flow runs registry]`.

Needs Chromium and playwright, a champion, and a finished run of the deployment `pipeline`. The pages of our own: docs/screenshots.py.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from pllava.services import stack as stacks

DOCS = Path(__file__).parent
PATIENCE = 300_000  # milliseconds
SETTLE = 3_000  # milliseconds for charts and graphs to be drawn


def form(page: Page, stack: stacks.Stack) -> None:
    """The form of the deployment `pipeline`."""
    deployment = _ask(f"{stack.prefect_url}/api/deployments/name/pipeline/pipeline")
    page.goto(f"{stack.prefect_url}/deployments/deployment/{deployment['id']}/run")
    page.get_by_text("overrides (Optional)").wait_for()


def flow(page: Page, stack: stacks.Stack) -> None:
    """The graph of the newest run of the pipeline that was completed."""
    wanted = {
        "flows": {"name": {"any_": ["pipeline"]}},
        "deployments": {"name": {"any_": ["pipeline"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "END_TIME_DESC",
        "limit": 1,
    }
    runs = _ask(f"{stack.prefect_url}/api/flow_runs/filter", wanted)
    if not runs:
        sys.exit("no finished run of the deployment `pipeline`: start one in the Prefect page")
    page.goto(f"{stack.prefect_url}/runs/flow-run/{runs[0]['id']}")
    page.locator("canvas").first.wait_for()


def runs(page: Page, stack: stacks.Stack) -> None:
    """The metrics of the trainings, side by side."""
    experiment = _ask(f"{stack.mlflow_url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=pllava")["experiment"]
    page.goto(f"{stack.mlflow_url}/#/experiments/{experiment['experiment_id']}/runs?compareRunsMode=CHART")
    page.locator("svg.main-svg").first.wait_for()
    _close_assistant(page)


def registry(page: Page, stack: stacks.Stack) -> None:
    """The versions of the model, with their aliases."""
    page.goto(f"{stack.mlflow_url}/#/models/pllava")
    page.get_by_text("champion").first.wait_for()
    _close_assistant(page)


def _close_assistant(page: Page) -> None:
    """MLflow's page opens an assistant beside what is to be seen."""
    heading = page.get_by_text("MLflow Assistant")
    if heading.count():
        heading.locator("xpath=ancestor::*[.//button][1]//button").last.click()


PICTURES = {"form": form, "flow": flow, "runs": runs, "registry": registry}


def take(names: list[str]) -> None:
    root = Path.cwd()
    stack = stacks.recorded(root) or stacks.wanted(root)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in names:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(PATIENCE)
            page.add_init_script(f"localStorage.setItem('prefect-password', {json.dumps(_login())})")
            PICTURES[name](page, stack)
            page.wait_for_timeout(SETTLE)
            page.mouse.move(0, 0)
            page.screenshot(path=DOCS / f"{name}.png")
        browser.close()


def _login() -> str:
    """As Prefect's page keeps it."""
    return base64.b64encode((Path.cwd() / stacks.LOGIN).read_bytes()).decode()


def _ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {_login()}"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as response:
        return json.load(response)


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(PICTURES)
    if unknown := set(wanted) - set(PICTURES):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there is: {', '.join(PICTURES)}")
    take(wanted)
