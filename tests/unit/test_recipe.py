"""Recipes are whole, valid params files, and `tiny` is what the project starts with."""

from pathlib import Path

import pytest

from pllava.core import recipes as recipe
from pllava.core.errors import PllavaError

PROJECT = Path(__file__).parents[2]
PUBLISHED = {
    "pllava-7b": ("llava-hf/llava-v1.6-vicuna-7b-hf", "vicuna", 8),
    "pllava-13b": ("llava-hf/llava-v1.6-vicuna-13b-hf", "vicuna", 8),
    "pllava-34b": ("llava-hf/llava-v1.6-34b-hf", "yi", 16),
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the recipes and the tiny params, and nothing else."""
    (tmp_path / "recipes").mkdir()
    for file in (PROJECT / "recipes").glob("*.yaml"):
        (tmp_path / "recipes" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "params.yaml").write_bytes((PROJECT / "recipes/tiny.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tiny_is_params_yaml_byte_for_byte():
    assert (PROJECT / "recipes/tiny.yaml").read_bytes() == (PROJECT / "params.yaml").read_bytes()


def test_every_recipe_is_valid(project):
    assert recipe.names() == ["own", "pllava-13b", "pllava-34b", "pllava-7b", "tiny"]
    assert len(recipe.overview()) == 5


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_papers_settings(project, name):
    base, template, gpus = PUBLISHED[name]
    params = recipe.load(name)
    train, lora = params.train, params.train.lora
    assert (params.model.base, params.model.template) == (base, template)
    assert (params.model.num_frames, params.model.pooling_shape) == (16, (16, 12, 12))
    assert (train.steps, train.batch_size, train.learning_rate, train.min_lr_ratio, train.weight_decay) == (6250, 128, 2e-5, 0.25, 0.02)
    assert (lora.r, lora.alpha, lora.dropout, lora.target_modules) == (128, 32, 0.05, ["q_proj", "v_proj"])
    assert (train.max_length, train.sampling) == (512, "rand")
    assert train.batch_size == gpus * train.gradient_accumulation  # one clip a GPU at a time
    assert len(params.data.train) == 14
    assert not params.rendered.enabled


def test_use_writes_the_recipe_byte_for_byte(project):
    recipe.use("pllava-7b")
    assert (project / "params.yaml").read_bytes() == (PROJECT / "recipes/pllava-7b.yaml").read_bytes()


def test_use_keeps_settings_of_ones_own(project):
    own = (project / "params.yaml").read_text().replace("seed: 17", "seed: 18")
    (project / "params.yaml").write_text(own)
    with pytest.raises(PllavaError, match="--force"):
        recipe.use("pllava-7b")
    assert (project / "params.yaml").read_text() == own
    recipe.use("pllava-7b", force=True)
    assert (project / "params.yaml").read_text() != own


def test_use_refuses_an_invalid_recipe_and_leaves_params_alone(project):
    before = (project / "params.yaml").read_bytes()
    (project / "recipes/mine.yaml").write_bytes(before.replace(b"seed: 17", b"sed: 17"))
    with pytest.raises(PllavaError, match="did you mean 'seed'"):
        recipe.use("mine")
    assert (project / "params.yaml").read_bytes() == before


def test_unknown_recipe_names_the_nearest(project):
    with pytest.raises(PllavaError, match="did you mean pllava-13b"):
        recipe.load("pllava13b")


def test_outside_a_project_they_are_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe.names() == ["own", "pllava-13b", "pllava-34b", "pllava-7b", "tiny"]
    assert recipe.read("tiny") == (PROJECT / "recipes/tiny.yaml").read_text()
