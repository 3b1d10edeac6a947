"""A run with other settings. It works in a workspace of its own, is kept as a DVC experiment named after the run, and leaves the project
folder as it is."""

import logging
from collections.abc import Collection
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import ROOT, form, links
from flows.stages import publish_metrics, run_stages
from pllava.core import recipes
from pllava.core.errors import PllavaError
from pllava.core.overrides import compose
from pllava.core.worktrees import keep, workspace


def is_other(recipe: str) -> bool:
    """Do the recipe's settings differ from the current params.yaml? Call it in the project folder."""
    return recipe != form.AS_IT_STANDS and recipes.read(recipe) != (ROOT / "params.yaml").read_text()


def run_experiment(recipe: str, changes: dict[str, Any], only: Collection[str] | None = None) -> Any:
    """Run the stages with a recipe and changes; return the final state of the flow. only: these stages and the stages they need.

    The result is neither registered nor served: `dvc exp apply NAME` copies it to the project folder, where a plain run judges it.
    """
    logger = get_run_logger()
    try:
        with workspace(ROOT, flow_run.get_name() or "run") as folder:
            logger.info(folder.describe())
            compose(None if recipe == form.AS_IT_STANDS else recipe, changes, folder.root / "params.yaml")
            failure, _ = run_stages(folder.root, folder.environment(), only)
            if failure:
                return Failed(message=failure)
            name = keep(folder, f"{recipe}, {changes}")
            links.tag("experiment", name)
            publish_metrics(folder.root, {"DVC experiment": f"`dvc exp apply {name}`"})
    except PllavaError as error:
        logger.log(logging.ERROR, str(error))
        return Failed(message=str(error))
    show = "dvc exp show -A --only-changed"  # -A: also the experiments of earlier commits
    return Completed(message=f"experiment {name}. All of them: {show}. To take this one over: dvc exp apply {name}", data=name)
