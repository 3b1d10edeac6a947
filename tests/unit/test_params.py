"""A params file is right as a whole, or every problem in it is named at once, with its place and the way out."""

from pathlib import Path

import pytest
import yaml

from pllava.core.errors import PllavaError
from pllava.core.params import load_params

RECIPE = (Path(__file__).parents[2] / "recipes/tiny.yaml").read_text()


def problems(tmp_path, *changes):
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(PllavaError) as refused:
        load_params(tmp_path / "params.yaml")
    return str(refused.value)


def test_every_problem_is_named_at_once_with_the_nearest_key(tmp_path):
    said = problems(tmp_path, ("learning_rate:", "lerning_rate:"), ("\ngate:", "\ngates:"), ("port: 7860", "port: 99999"))
    assert "3 problem(s)" in said
    assert "train.lerning_rate: unknown key; did you mean 'learning_rate'?" in said
    assert "gates: unknown key; did you mean 'gate'?" in said
    assert "deploy.port: input should be less than or equal to 65535, found 99999" in said


def test_settings_that_contradict_each_other_are_said_in_one_sentence(tmp_path):
    said = problems(tmp_path, ("pooling_shape: [8,", "pooling_shape: [9,"))
    assert said.splitlines()[1:] == ["  model: pooling_shape[0] = 9 is more than num_frames = 8"]
    said = problems(tmp_path, ("packing: false", "packing: true"), ("implementation: sdpa", "implementation: eager"))
    assert "train.packing needs model.attn_implementation sdpa" in said


@pytest.mark.parametrize(("text", "why"), [("", "holds NoneType"), ("a: [1", "not valid YAML"), ("- 1", "holds list")])
def test_a_file_that_is_no_mapping_names_the_next_command(tmp_path, text, why):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(PllavaError, match=why):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("registry", "model_name", "team/pllava"),
        ("registry", "model_name", ""),
        ("registry", "experiment", "../elsewhere"),
        ("train", "learning_rate", float("inf")),
        ("evaluate", "lora_alpha", float("inf")),
    ],
)
def test_what_would_fail_after_the_training_is_refused_before(tmp_path, section, key, value):
    """MLflow takes no such name; no weight survives such a number."""
    raw = yaml.safe_load(RECIPE)
    raw[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(PllavaError, match=f"{section}.{key}"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000 + "]" * 5000, "1999-99-99"], ids=["digits", "deep", "date"])
def test_yaml_that_cannot_be_read_is_one_sentence(tmp_path, value):
    (tmp_path / "params.yaml").write_text(f"seed: {value}\n")
    with pytest.raises(PllavaError, match=r"params\.yaml is not valid YAML") as refused:
        load_params(tmp_path / "params.yaml")
    assert len(str(refused.value)) < 500
