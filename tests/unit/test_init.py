"""`pllava init` writes a project that runs, whole or not at all; what needs no project works without one, the rest says how to make one."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.dag import read_dag
from pllava.chat.model_ref import ModelRef
from pllava.cli import main
from pllava.cli.options import settings_anywhere
from pllava.core import recipes, shipped
from pllava.core.errors import PllavaError
from pllava.core.params import load_params
from pllava.services import init as new_project
from pllava.services import rooms
from pllava.services.init import init
from pllava.stages.train.launch import accelerate_config
from pllava.trials.specification import read_study

CHECKOUT = Path(__file__).parents[2]
CLIP = CHECKOUT / "tests/reference/video/clip.gif"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder, in which we are."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pllava", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    return exited.value.code


def test_a_project_has_all_it_needs(empty):
    text = init(Path("mine"))
    mine = empty / "mine"
    assert load_params(mine / "params.yaml") == recipes.load("tiny")
    for file in (".dvc/config", ".dvcignore", ".gitignore", "prefect.yaml", "flows/pipeline.py", "data/base/tiny-llava/model.safetensors"):
        assert (mine / file).read_bytes() == (CHECKOUT / file).read_bytes()
    assert "cd mine" in text
    assert "dvc repro" in text
    assert "make run" in text


def test_its_stages_are_those_of_the_checkout_after_the_stage_that_names_the_code(empty):
    init(Path("mine"))
    subprocess.run(["git", "init", "-q", "mine"], check=True)
    here, there = read_dag(empty / "mine"), read_dag(CHECKOUT)
    assert here[0].name == "code"
    assert [(stage.name, set(stage.needs) - {"code"}) for stage in here[1:]] == [(stage.name, set(stage.needs)) for stage in there]
    assert all("code" in stage.needs for stage in here[1:])


@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("run", "python -m flows.pipeline"),
        ("repro", "dvc repro"),
        ("up", "pllava up"),
        ("down", "pllava down"),
        ("status", "pllava status\ndvc status"),
    ],
)
def test_make_has_the_names_of_the_checkout(empty, target, commands):
    init(Path("mine"))
    assert (
        subprocess.run(["make", "-n", "-C", "mine", "--no-print-directory", target], capture_output=True, text=True).stdout.strip()
        == commands
    )


def test_every_room_that_a_stage_names_is_written(empty):
    init(Path("mine"))
    stages = yaml.safe_load((empty / "mine/dvc.yaml").read_text())["stages"]
    watched = {dep for stage in stages.values() for dep in stage.get("do", stage).get("deps", ()) if dep.startswith("outputs/code/")}
    rooms.write_rooms()
    assert watched
    assert all(Path(dep).is_file() for dep in watched)
    assert "pllava/" not in (empty / "mine/dvc.yaml").read_text()


def test_a_room_that_changed_has_another_digest_and_the_others_have_not(empty, monkeypatch):
    package = empty / "package"
    for file in (
        "core/__init__.py",
        "video/__init__.py",
        "chat/__init__.py",
        "chat/templates/tiny.yaml",
        "stages/__init__.py",
        "stages/train/__init__.py",
    ):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("1")
    monkeypatch.setattr(rooms, "PACKAGE", package)

    def digests():
        written = rooms.write_rooms()
        return {str(file.relative_to(written)): file.read_text() for file in written.rglob("*") if file.is_file()}

    before = digests()
    (package / "chat/templates/tiny.yaml").write_text("2")
    (package / "stages/train/loop.py").write_text("2")
    after = digests()
    assert set(before) == {"core", "video", "chat", "stages/train"}
    assert {room for room in before if before[room] != after[room]} == {"chat", "stages/train"}


def test_another_recipe(empty):
    init(Path("big"), "pllava-7b")
    assert (empty / "big/params.yaml").read_bytes() == (CHECKOUT / "recipes/pllava-7b.yaml").read_bytes()


@pytest.mark.parametrize(("folder", "recipe", "message"), [("full", "tiny", "not an empty folder"), ("new", "tinny", "did you mean tiny")])
def test_a_refusal_writes_nothing(empty, folder, recipe, message):
    (empty / "full").mkdir()
    (empty / "full/notes.txt").write_text("mine")
    with pytest.raises(PllavaError, match=message):
        init(Path(folder), recipe)
    assert sorted(path.name for path in empty.rglob("*")) == ["full", "notes.txt"]


def test_a_file_in_the_way_is_refused(empty):
    (empty / "mine").write_text("a file")
    with pytest.raises(PllavaError, match="not an empty folder"):
        init(Path("mine"))
    assert (empty / "mine").read_text() == "a file"


def test_what_fails_half_way_leaves_nothing(empty, monkeypatch):
    def full(text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_project, "for_installed", full)
    with pytest.raises(OSError, match="No space"):
        init(Path("mine"))
    assert list(empty.iterdir()) == []


def test_the_folder_we_are_in_becomes_a_project(empty):
    (empty / "a folder").mkdir()
    os.chdir(empty / "a folder")
    text = init(Path())
    assert f"cd {shlex.quote(str(empty / 'a folder'))}" in text
    assert (empty / "a folder/dvc.yaml").is_file()
    assert [path.name for path in empty.iterdir()] == ["a folder"]


def test_files_of_a_project_come_before_those_of_the_package(empty):
    (empty / "recipes").mkdir()
    (empty / "recipes/tiny.yaml").write_text("mine")
    (empty / "recipes/other.yaml").write_text("mine, too")
    assert recipes.read("tiny") == "mine"
    assert "other" in recipes.names()
    assert "pllava-7b" in recipes.names()


def test_studies_and_accelerate_files_are_at_hand_everywhere(empty):
    assert read_study("spatial")[1].points
    assert accelerate_config(Path("recipes/accelerate/cpu-2.yaml")).num_processes == 2


def test_without_a_project_the_base_of_the_package_answers(empty):
    params = settings_anywhere(Path("params.yaml"))
    ref = ModelRef.parse(params.model.base, None, None, params)
    assert Path(ref.base).samefile(CHECKOUT / "data/base/tiny-llava")
    assert (ref.template, ref.num_frames) == ("tiny", 8)


def test_settings_that_are_named_must_be_there(empty):
    with pytest.raises(PllavaError, match=r"mine\.yaml is not there"):
        settings_anywhere(Path("mine.yaml"))


NEED_A_PROJECT = (
    "render", "prepare", "features", "train", "evaluate", "judge", "report", "study spatial", "register", "gate", "promote", "rollback",
    "lineage models:/pllava/1", "reproduce models:/pllava/1", "deploy", "up", "down", "status", "data list", "data show rendered",
    "data check rendered", "data add a --annotations b.json", "data remove rendered", f"ask {CLIP} what --model models:/pllava@champion",
)  # fmt: skip


@pytest.mark.parametrize("command", NEED_A_PROJECT)
def test_what_needs_a_project_says_how_to_make_one_and_leaves_nothing(empty, monkeypatch, capsys, command):
    assert run(monkeypatch, *command.split()) == 1
    error = capsys.readouterr().err
    assert "pllava init FOLDER" in error
    assert len(error.splitlines()) == 1
    assert list(empty.iterdir()) == []


def test_every_file_that_is_named_is_in_a_source_archive():
    """MANIFEST.in and shipped.FILES name the same files; and git holds each, so that a clone builds the same package."""
    tracked = set(subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split())
    manifest = (CHECKOUT / "MANIFEST.in").read_text().split()
    for pattern in shipped.FILES:
        files = {file.relative_to(CHECKOUT).as_posix() for file in CHECKOUT.glob(pattern) if file.is_file()}
        assert files, pattern
        assert files <= tracked, pattern
        assert pattern in manifest or any(folder in manifest and pattern.startswith(f"{folder}/") for folder in manifest), pattern
