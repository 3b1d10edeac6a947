"""Which model answers: what was asked for, else the champion, else the newest training, else the base."""

from pathlib import Path

import pytest
import yaml

from pllava.core.errors import PllavaError
from pllava.core.files import write_json
from pllava.core.params import load_params
from pllava.registry import default_model as source

PARAMS = load_params(Path(__file__).parents[3] / "recipes/tiny.yaml")


@pytest.fixture(autouse=True)
def empty_project(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def write_adapter(folder: Path, whole: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump({"base": "some/base", "template": "yi", "train": {"turns": "independent"}}))
    if whole:
        write_json(folder / "manifest.json", {"files": {}, "adapter_sha256": "ab" * 32, "base_sha256": "cd" * 32})
    return folder


def test_in_a_fresh_project_the_base_answers_and_no_registry_is_made():
    Path(PARAMS.model.base).mkdir(parents=True)
    (Path(PARAMS.model.base) / "config.json").write_text("{}")
    chosen = source.choose(PARAMS)
    assert (chosen.base, chosen.adapter, chosen.template) == (PARAMS.model.base, None, "tiny")
    assert chosen.pooling_shape == PARAMS.model.pooling_shape
    assert "no champion" in chosen.why
    assert not Path(".state").exists()


def test_the_newest_training_comes_before_the_base():
    write_adapter(source.ADAPTER)
    chosen = source.choose(PARAMS)
    assert chosen.adapter == str(source.ADAPTER)
    assert chosen.adapter_sha256 == "ab" * 32
    assert chosen.base == "some/base"
    assert chosen.template == "yi"
    assert chosen.turns == "independent"
    assert chosen.lineage["base_sha256"] == "cd" * 32


def test_an_adapter_that_was_not_written_to_the_end_is_refused():
    with pytest.raises(PllavaError, match=r"no manifest\.json"):
        source.choose(PARAMS, str(write_adapter(Path("half"), whole=False)))


def test_a_given_template_wins():
    assert source.choose(PARAMS, str(write_adapter(Path("adapter"))), template="vicuna").template == "vicuna"


@pytest.mark.parametrize(("hub_id", "template"), [("ermu2001/pllava-7b", "vicuna"), ("ermu2001/pllava-34b", "yi")])
def test_published_models_get_their_own_template_and_sizes(hub_id, template):
    chosen = source.choose(PARAMS, hub_id)
    assert chosen.template == template
    assert chosen.turns == "conversation"
    assert chosen.lora_alpha is None
    assert (chosen.num_frames, chosen.pooling_shape, chosen.dtype) == (None, None, "auto")  # what the checkpoint says


def test_an_adapter_of_the_published_training_goes_on_the_base_asked_for():
    chosen = source.choose(PARAMS, "llava-hf/llava-v1.6-vicuna-7b-hf", adapter="their/adapter")
    assert (chosen.base, chosen.adapter) == ("llava-hf/llava-v1.6-vicuna-7b-hf", "their/adapter")


@pytest.mark.parametrize("name", ["no such model", "/no/such/folder/here"])
def test_what_is_no_model_is_said_at_once(name):
    with pytest.raises(PllavaError, match="not a folder, a hub id"):
        source.choose(PARAMS, name)


def test_a_folder_without_a_model_is_no_model(tmp_path):
    with pytest.raises(PllavaError, match="it is no model"):
        source.choose(PARAMS, str(tmp_path))
