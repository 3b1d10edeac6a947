"""Corpora by name: edits of params.yaml keep every other line, a failed change leaves nothing, reports count what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pllava import cli
from pllava.core.errors import PllavaError
from pllava.core.params import Corpus, Params, load_params
from pllava.corpora import add as add_module
from pllava.corpora.check import CHECKED, check_corpus
from pllava.corpora.entries import (
    with_benchmark,
    with_corpus,
    with_dependencies,
    without_benchmark,
    without_corpus,
    without_dependencies,
)
from pllava.corpora.published import CORPORA
from pllava.corpora.undo import JOURNAL, Undo, recover

PROJECT = Path(__file__).parents[3]
RECIPES = sorted((PROJECT / "recipes").glob("*.yaml"))
KITCHEN = Corpus(name="kitchen", annotations=Path("data/raw/kitchen/train.json"), media=Path("data/raw/kitchen/media"), max_rows=5)
SMALL = Path("data/raw/small")


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_adding_and_removing_a_corpus_changes_no_other_line(recipe: Path, split: str) -> None:
    before = recipe.read_text()
    after = with_corpus(before, split, KITCHEN)
    fresh = [line for line in after.splitlines() if line not in before.splitlines()]
    assert fresh[-1].strip() == (
        "- {name: kitchen, kind: video, annotations: data/raw/kitchen/train.json, media: data/raw/kitchen/media, max_rows: 5}"
    )
    assert {line.partition("#")[0].rstrip() for line in fresh[:-1]} <= {f"  {split}:"}, "an empty list becomes one with a line an entry"
    assert without_corpus(after, split, "kitchen") == before


def test_a_comment_after_the_list_stays_after_it() -> None:
    text = "data:\n  train:\n    - {name: a}   # the first\n\n  # how bad may it be\n  max_bad_fraction: 0.0\n"
    after = with_corpus(text, "train", KITCHEN)
    assert after.splitlines()[2] == "    - {name: a}   # the first"
    assert after.splitlines()[3].startswith("    - {name: kitchen")
    assert after.splitlines()[4:] == ["", "  # how bad may it be", "  max_bad_fraction: 0.0"]
    assert without_corpus(after, "train", "kitchen") == text
    bare = text.replace("   # the first", "")
    assert without_corpus(with_corpus(bare, "train", KITCHEN), "train", "kitchen") == bare
    assert "# how bad may it be" in without_corpus(text, "train", "a")


def test_prepare_depends_on_the_files_of_a_corpus_once() -> None:
    before = (PROJECT / "dvc.yaml").read_text()
    paths = ["data/kitchen/train.json", "data/kitchen/media", "data/raw/rendered/instruction/train.json"]  # data/raw is one already
    after = with_dependencies(before, paths)
    assert [line.strip() for line in after.splitlines() if line not in before.splitlines()] == [f"- {path}" for path in paths[:2]]
    assert with_dependencies(after, paths) == after
    assert without_dependencies(after, paths) == before


def test_undo_puts_files_and_their_absence_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept").write_text("before")
    with pytest.raises(KeyboardInterrupt), Undo() as undo:
        for path in ("kept", "new", "folder"):
            undo.keep(path)
        Path("kept").write_text("after")
        Path("new").write_text("x")
        Path("folder/deep").mkdir(parents=True)
        raise KeyboardInterrupt
    assert Path("kept").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".state", "kept"]
    assert not JOURNAL.exists()


def test_what_a_killed_process_left_is_undone_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import os; from pllava.corpora.undo import Undo\nwith Undo() as undo:\n undo.keep('new'); open('new', 'w'); os._exit(9)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    assert Path("new").exists()
    assert recover()
    assert not Path("new").exists()
    assert not recover()


def test_report_counts_and_names_what_is_bad(project: Callable[..., Params]) -> None:
    rows = json.loads((SMALL / "train.json").read_text())
    rows[1]["QA"][0]["q"] = "USER: <image>"
    rows[2]["video"] = "train/none.mp4"
    rows.append(rows[3])
    rows[5]["QA"] = [{"q": "?", "a": "word " * 400}]
    (SMALL / "train.json").write_text(json.dumps(rows))
    (SMALL / "videos/train/4.mp4").write_bytes(b"")
    params = project()
    report = check_corpus(params.data.train[0], params, "train")
    assert (report.rows, report.usable, report.clips) == (13, 9, 9)
    assert {code: found["rows"] for code, found in report.reasons.items()} == {
        "duplicate": 1,
        "media empty": 1,
        "media missing": 1,
        "special text": 1,
    }
    rejected = [json.loads(line) for line in (CHECKED / "small-train.rejected.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rejected] == [1, 2, 4, 12]
    assert json.loads((CHECKED / "small-train.json").read_text()) == vars(report)
    assert (report.rows_cut_to_max_length, report.cut_examples) == (1, ["small:5"])
    text = (CHECKED / "small-train.md").read_text()
    assert "row 2: data/raw/small/videos/train/none.mp4 is not there" in text
    assert "30.8%" in text


def test_the_corpora_of_the_released_models_are_those_of_the_recipe() -> None:
    recipe = load_params(PROJECT / "recipes/pllava-7b.yaml")
    published = {corpus.name: corpus for corpus in CORPORA}
    assert {corpus.name for corpus in recipe.data.train} == {name for name, corpus in published.items() if not corpus.optional}
    for corpus in recipe.data.train:
        assert corpus.annotations.as_posix().endswith(published[corpus.name].path)
    groups = {group: sum(c.rows for c in CORPORA if c.task == group) for group in ("conversation", "classification", "caption")}
    assert {group: round(rows / 1e4) for group, rows in groups.items()} == {"conversation": 3, "classification": 8, "caption": 46}


def test_list_and_show_say_counts_and_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    listed = CliRunner().invoke(cli.app, ["data", "list"]).output
    assert "rendered" in listed
    assert "not checked" in listed
    assert all(f"{corpus.name}" in listed and f"{corpus.rows:,}" in listed for corpus in CORPORA)
    shown = CliRunner().invoke(cli.app, ["data", "show", "vqa_ego_qa"]).output
    assert "7,813" in shown
    assert "https://ego4d-data.org/" in shown
    assert "pllava data add vqa_ego_qa" in shown
    error = CliRunner().invoke(cli.app, ["data", "show", "kitchen"]).exception
    assert isinstance(error, PllavaError)
    assert "there is: rendered" in str(error)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "a/b"}, "cannot name a corpus"),
        ({"name": "rendered"}, "has a corpus 'rendered' already"),
        ({"weight": 0}, "weight: input should be greater than 0"),
        ({"kind": "audio"}, "kind: input should be 'video', 'image' or 'text'"),
        ({"annotations": "none.json"}, "none.json is not there"),
        ({"annotations": "videos"}, "is a folder, --annotations needs a file"),
        ({"media": "https://example.org/videos"}, "HTTP has no folders"),
        ({"media": None}, "kind video needs --media"),
        ({"kind": "text"}, "kind text takes no media, found videos"),
    ],
)
def test_what_cannot_be_added_is_said_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        Path(name).write_text((PROJECT / name).read_text())
    Path("videos").mkdir()
    Path("rows.json").write_text("[]")
    with pytest.raises(PllavaError) as error:
        add_module.add(**{"name": "kitchen", "annotations": "rows.json", "media": "videos", **change})  # type: ignore[arg-type]
    assert reason in str(error.value)
    assert Path("params.yaml").read_text() == (PROJECT / "params.yaml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dvc.yaml", "params.yaml", "rows.json", "videos"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_adding_and_removing_a_test_set_changes_no_other_line(recipe: Path) -> None:
    before = recipe.read_text()
    after = with_benchmark(before, "kitchen", {"root": "data/raw/kitchen/test", "template": "tiny_mvbench"})
    fresh = [line for line in after.splitlines() if line not in before.splitlines()]
    assert fresh[-1] == "    kitchen: {root: data/raw/kitchen/test, template: tiny_mvbench}"
    assert {line.partition("#")[0].rstrip() for line in fresh[:-1]} <= {"  benchmarks:"}
    assert without_benchmark(after, "kitchen") == before
