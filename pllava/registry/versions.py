"""Versions, aliases and tags of the registered model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
PREVIOUS = "previous"
CANDIDATE = "candidate"
KNOWN = "champion"  # tag of the registered model: number of the champion that `promote` or `rollback` set last
ROLLED_BACK = "rolled_back_at"  # tag of a version that a rollback replaced; the gate refuses such a version


def ensure_model(connection: MlflowClient, name: str) -> None:
    """Create the registered model unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        connection.create_registered_model(name, description="PLLaVA adapters: LoRA and projector over the base named in config.yaml")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def by_alias(connection: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to; None when the alias or the model does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return connection.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # An unknown alias is INVALID_PARAMETER_VALUE, an unknown model RESOURCE_DOES_NOT_EXIST.
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def all_versions(connection: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version, newest first."""
    versions = connection.search_model_versions(f"name = '{name}'", max_results=10_000)
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def pick(connection: MlflowClient, name: str, number: int | None) -> ModelVersion:
    """The version with this number; None: the candidate, which is the version registered last. Raises PllavaError for an unknown number."""
    versions = all_versions(connection, name)
    if not versions:
        raise PllavaError(f"{name} has no version yet. Run: pllava register")
    if number is None:
        return by_alias(connection, name, CANDIDATE) or versions[0]
    for version in versions:
        if int(version.version) == number:
            return version
    known = ", ".join(str(version.version) for version in reversed(versions))
    raise PllavaError(f"{name} has no version {number}; it has: {known}")
