"""Which model answers: the requested one, else the champion, else the newest training, else the base. All commands use this rule."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pllava.artifacts.training import ADAPTER
from pllava.chat.model_ref import ModelRef
from pllava.core.params import Params
from pllava.registry import champion_file

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def choose(params: Params, model: str | None = None, adapter: str | None = None, template: str | None = None) -> ModelRef:
    """The reference of the model that answers; loads nothing. Raises PllavaError when the requested model does not exist."""
    if model is not None or adapter is not None:
        return ModelRef.parse(model, adapter, template, params)
    name = params.registry.model_name
    recorded = champion_file.read(name)  # without mlflow, whose import takes seconds
    version = recorded[0] if recorded else champion(params)
    if version is not None:
        return ModelRef.parse(f"models:/{name}/{version.version}", None, template, params, "the default")
    if (ADAPTER / "manifest.json").is_file():
        return ModelRef.parse(str(ADAPTER), None, template, params, "no champion yet; the newest training")
    why = f"no champion, nothing in {ADAPTER}; the base, which has seen no video"
    return ModelRef.parse(params.model.base, None, template, params, why)


def champion(params: Params) -> ModelVersion | None:
    """The registry's champion; None without one. A registry that does not exist is not created, because creating one is slow."""
    from pllava.registry.versions import CHAMPION

    return _with_alias(params, CHAMPION)


def rival(params: Params, serving: ModelRef) -> ModelRef | None:
    """The candidate, to be compared with the version that serves; None when there is none, or when it serves itself."""
    from pllava.registry.versions import CANDIDATE

    version = _with_alias(params, CANDIDATE)
    if version is None or serving.version is None or int(version.version) == serving.version:
        return None
    return ModelRef.parse(f"models:/{params.registry.model_name}/{version.version}", None, None, params, "the candidate")


def _with_alias(params: Params, alias: str) -> ModelVersion | None:
    from pllava.registry.versions import by_alias
    from pllava.tracking.store import MLFLOW_HOME, client, project_root

    if "MLFLOW_TRACKING_URI" not in os.environ and not (project_root() / MLFLOW_HOME / "mlflow.db").is_file():
        return None
    return by_alias(client(), params.registry.model_name, alias)
