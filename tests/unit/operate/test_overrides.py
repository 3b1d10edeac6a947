"""What one run has otherwise: typed as params.yaml is, and nothing else of the file changes."""

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from pllava.core.errors import PllavaError
from pllava.core.overrides import NOT_OF_A_RUN, Overrides, compose, set_values
from pllava.core.params import Params

PROJECT = Path(__file__).parents[3]
RECIPES = sorted(path.stem for path in (PROJECT / "recipes").glob("*.yaml"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(PROJECT / "recipes", tmp_path / "recipes")
    shutil.copy(PROJECT / "recipes/tiny.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_key_of_the_params_can_be_given_but_where_it_serves_and_is_judged():
    assert set(Overrides.model_fields) == set(Params.model_fields) - set(NOT_OF_A_RUN)


def test_only_what_was_set_is_sent():
    assert set_values(Overrides()) == {}
    assert Overrides().model_dump() == {}
    values = {"seed": 0, "train": {"lora": {"r": 4}}, "evaluate": {"lora_alpha": None}}
    assert set_values(Overrides.model_validate(values)) == values, "0 and null are values"
    assert set_values(Overrides.model_validate({"evaluate": {}})) == {}


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"train": {"stepz": 1}}, ("train", "stepz")),
        ({"train": {"steps": 0}}, ("train", "steps")),
        ({"model": {"dtype": "float8"}}, ("model", "dtype")),
        ({"deploy": {"host": "0.0.0.0"}}, ("deploy",)),
    ],
)
def test_a_wrong_value_is_refused_where_it_is(values, place):
    with pytest.raises(ValidationError) as refused:
        Overrides.model_validate(values)
    assert refused.value.errors()[0]["loc"][: len(place)] == place


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_but_the_change_changes(project, recipe):
    compose(recipe, {"seed": 123456}, Path("params.yaml"))
    before, after = (project / f"recipes/{recipe}.yaml").read_text().splitlines(), Path("params.yaml").read_text().splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new] == ["seed: 123456"]


def test_a_whole_that_is_not_valid_is_not_written(project):
    before = Path("params.yaml").read_text()
    with pytest.raises(PllavaError, match=r"pooling_shape\[0\] = 8 is more than num_frames = 4"):
        compose(None, {"model": {"num_frames": 4}}, Path("params.yaml"))
    assert Path("params.yaml").read_text() == before
    assert sorted(p.name for p in project.iterdir()) == ["params.yaml", "recipes"]


def test_an_untouched_switch_is_not_sent():
    """Prefect's page shows a boolean as a switch and sends false for it; a drop-down that is left empty is not sent."""
    sections = Overrides.model_json_schema()["$defs"]
    assert sections["RenderedOverrides"]["properties"]["enabled"]["enum"] == [True, False]
    assert sections["FeaturesOverrides"]["properties"]["enabled"]["enum"] == [True, False, "auto"]
    assert not [field for section in sections.values() for field in section["properties"].values() if field.get("type") == "boolean"]


def test_every_choice_of_the_form_can_be_taken(project):
    """Among them a word that YAML 1.1 reads as false."""
    for choice in ("bf16", "no", "fp16"):
        assert compose("pllava-7b", {"train": {"mixed_precision": choice}}, project / "params.yaml").train.mixed_precision == choice
