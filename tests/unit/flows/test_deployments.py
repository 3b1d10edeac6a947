"""What Prefect's pages say of a deployment and of the fields of its form."""

import importlib

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from flows import ROOT

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_and_every_field_of_its_form_are_described(deployment):
    file, name = deployment["entrypoint"].split(":")
    flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    schema = parameter_schema(flow)
    fields = dict(schema.properties)
    fields |= schema.definitions.get("CaptionForm", {}).get("properties", {})
    assert deployment["description"]
    assert [field for field, facts in fields.items() if not facts.get("description")] == []
