"""A run with other settings: in a workspace of its own, kept as a DVC experiment named after the run. The project folder is not touched."""

import logging
from collections.abc import Collection
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import ROOT, form
from flows.stages import publish_metrics, run_stages
from pllava.core import recipes
from pllava.core.errors import PllavaError
from pllava.core.overrides import compose
from pllava.core.worktrees import keep, workspace


def is_other(recipe: str) -> bool:
    """Is this recipe, or its name, another one than what params.yaml holds now? Call it in the project folder."""
    return recipe != form.AS_IT_STANDS and recipes.read(recipe) != (ROOT / "params.yaml").read_text()


def run_experiment(recipe: str, changes: dict[str, Any], only: Collection[str] | None = None) -> Any:
    """The stages (`only` these and what they need, instead of all) with a recipe and changes; the state the flow ends in.

    Neither registered nor served: `dvc exp apply NAME` brings it to the project folder, and a plain run judges it there.
    """
    logger = get_run_logger()
    try:
        with workspace(ROOT, flow_run.get_name() or "run") as place:
            logger.info(place.describe())
            compose(None if recipe == form.AS_IT_STANDS else recipe, changes, place.root / "params.yaml")
            failure, _ = run_stages(place.root, place.environment(), only)
            if failure:
                return Failed(message=failure)
            publish_metrics(place.root)
            name = keep(place, f"{recipe}, {changes}")
    except PllavaError as error:
        logger.log(logging.ERROR, str(error))
        return Failed(message=str(error))
    return Completed(message=f"experiment {name}. All of them: dvc exp show. To take this one over: dvc exp apply {name}", data=name)
