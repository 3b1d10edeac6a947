"""What a run says about its settings, code and data."""

import os
import subprocess
from types import SimpleNamespace

import pytest

from pllava.core.errors import PllavaError
from pllava.core.files import write_json
from pllava.core.hashing import sha256_file
from pllava.core.params import Params, load_params
from pllava.registry.card import card, corpora_of, limits
from pllava.tracking.provenance import changed_files, code_tags, corpus_tags, dataset_digests, flatten


def test_nested_settings_become_dotted_names():
    assert flatten({"train": {"lora": {"r": 64}}, "data": {"train": [{"name": "a"}, {"name": "b"}]}, "shape": [8, 3, 3]}) == {
        "train.lora.r": "64",
        "data.train.0.name": "a",
        "data.train.1.name": "b",
        "shape": "[8, 3, 3]",
    }


def test_git_tags_tell_a_clean_tree_from_a_changed_one(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    assert code_tags(tmp_path)["git.dirty"] == "false"
    assert len(code_tags(tmp_path)["git.commit"]) == 40
    (tmp_path / "file").write_text("2")
    assert code_tags(tmp_path)["git.dirty"] == "true"


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_tags(tmp_path)["git.commit"] == "unknown"
    assert code_tags(tmp_path)["git.dirty"] == "unknown"


def repository(folder, *files):
    """A git repository at `folder` with these files in one commit."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("1")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.mark.parametrize("inside", [".", "sub", "two words/é", "a%20b/#c"])
def test_a_project_in_a_sub_folder_is_as_clean_as_another(tmp_path, inside):
    """A run of the pipeline renews its records, which leaves a clean tree clean; what else changes is named from the project."""
    project, names = tmp_path / inside, ("dvc.lock", "metrics/a b.json", "flows/ä -> b.py", "old name", "metrics.py")
    repository(tmp_path, "outside.py", *(f"{inside}/{name}" for name in names))
    for name in names[:2]:
        (project / name).write_text("2")
    assert changed_files(project) == []
    assert code_tags(project)["git.dirty"] == "false"
    for name in names[2:]:
        (project / name).write_text("2")
    subprocess.run(["git", "mv", "old name", "new name"], cwd=project, check=True)
    (tmp_path / "outside.py").write_text("2")
    outside = os.path.relpath(tmp_path / "outside.py", project)
    assert changed_files(project) == sorted(["flows/ä -> b.py", "metrics.py", "new name", outside])
    assert code_tags(project)["git.dirty"] == "true"


def test_what_git_refuses_is_told_once_with_its_advice(tmp_path, caplog, monkeypatch):
    """The folder is another user's, as one that is mounted in a container."""
    repository(tmp_path, "file")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for _ in range(3):
        tags = code_tags(tmp_path)
    assert (tags["git.commit"], tags["git.dirty"]) == ("unknown", "unknown")
    assert "dubious ownership" in tags["git.refused"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "git config --global --add safe.directory" in message


def test_a_repository_without_a_commit_is_no_refusal(tmp_path, caplog):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    tags = code_tags(tmp_path)
    assert (tags["git.commit"], tags["git.dirty"], "git.refused" in tags) == ("unknown", "unknown", False)
    assert not caplog.records


def test_dataset_digest_is_the_hash_dvc_recorded(tmp_path):
    params = load_params("recipes/tiny.yaml")
    (tmp_path / "dvc.lock").write_text(
        "stages: {prepare: {cmd: x, outs: [{path: data/prepared, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir}]}}"
    )
    assert dataset_digests(tmp_path, params) == {"prepared": ("data/prepared", "0123456789abcdef0123456789abcdef.dir")}


def test_without_dvc_the_digest_is_computed_from_the_manifest(tmp_path):
    params = load_params("recipes/tiny.yaml")
    manifest = tmp_path / "data/prepared/train.parquet"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"one")
    first = dataset_digests(tmp_path, params)["prepared"][1]
    manifest.write_bytes(b"two")
    assert len(first) == 36
    assert dataset_digests(tmp_path, params)["prepared"][1] != first


STAGES = "stages: {prepare: {cmd: x}, train: {cmd: x}, evaluate: {foreach: [mvbench], do: {cmd: x}}}"


def test_while_training_runs_the_digest_is_of_the_data_it_reads(tmp_path):
    """dvc.lock is renewed stage by stage: what evaluation read last time is not what training reads now."""
    params = load_params("recipes/tiny.yaml")
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "dvc.lock").write_text(
        "stages: {"
        "evaluate@mvbench: {deps: [{path: data/prepared, md5: old.dir}, {path: data/base/tiny-llava, md5: old.dir}]}, "
        "prepare: {deps: [{path: data/base/tiny-llava, md5: new.dir}], outs: [{path: data/prepared, md5: new.dir}]}}"
    )
    assert {name: digest for name, (_, digest) in dataset_digests(tmp_path, params).items()} == {"prepared": "new.dir", "base": "new.dir"}


LOCK = b"""schema: '2.0'
stages:
  train:
    cmd: pllava train
    deps:
    - path: data/prepared
      hash: md5
      md5: 0123.dir
"""


@pytest.mark.parametrize("name", ["dvc.lock", "data/prepared.dvc"])
def test_half_a_file_of_dvc_is_named_wherever_it_was_cut(tmp_path, name):
    params = load_params("recipes/tiny.yaml")
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    for content in (
        *(LOCK[:end] for end in range(len(LOCK))),
        b"\xff",
        b"\0" * 40,
        b"outs: []",
        b"stages: []",
        b"stages: {a: {outs: [{}]}}",
    ):
        file.write_bytes(content)
        try:
            dataset_digests(tmp_path, params)
        except PllavaError as error:
            assert f"{name} is not whole" in str(error)


def test_data_of_ones_own_has_the_hash_that_dvc_add_recorded(tmp_path):
    params = load_params("recipes/pllava-7b.yaml")
    (tmp_path / "data/raw/videochat2-it").mkdir(parents=True)
    (tmp_path / "data/raw/videochat2-it.dvc").write_text("outs: [{path: videochat2-it, hash: md5, md5: 89abcdef.dir}]")
    found = dataset_digests(tmp_path, params)
    assert found["media.caption_textvr"] == ("data/raw/videochat2-it/media/textvr", "89abcdef.dir")
    assert len(found) == len(params.data.train)


def test_a_user_without_a_name_can_promote(monkeypatch):
    """As in a container that runs as a number: the system knows no such user."""
    from pllava.registry.promote import _who

    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert _who() == f"user {os.getuid()}"


def own(tmp_path):
    """Settings with the rendered corpus and two of a stranger: a file fetched from a URL beside a folder, and text."""
    params = load_params("recipes/tiny.yaml").model_dump(mode="json")
    params["data"]["train"] += [
        {"name": "birds", "annotations": "data/raw/birds/train.jsonl", "media": "data/raw/birds/media"},
        {"name": "chat", "kind": "text", "annotations": "talk.json"},
    ]
    params["data"]["validation"] += [{"name": "birds", "annotations": "data/raw/birds/validation.json", "media": "data/raw/birds/media"}]
    place = tmp_path / "data/raw/birds"
    (place / "media").mkdir(parents=True)
    (place / "media/README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Birds\n")
    (place / "train.jsonl.dvc").write_text(
        "md5: f\nfrozen: true\ndeps: [{path: http://x/rows.jsonl}]\nouts: [{md5: rows, path: train.jsonl}]"
    )
    (place / "media.dvc").write_text("outs: [{md5: clips.dir, path: media}]")
    (place / "validation.json").write_text("[]")
    (tmp_path / "talk.json").write_text("[]")
    (tmp_path / "LICENSE").write_text("MIT")
    write_json(tmp_path / "data/prepared/report.json", {"splits": {"train": {"corpora": {"birds": {"rows": 7}}}}})
    return Params.model_validate(params)


def test_every_corpus_has_a_hash_beside_the_rendered_one(tmp_path):
    found = {name: digest for name, (_, digest) in dataset_digests(tmp_path, own(tmp_path)).items()}
    assert found["annotations.birds"] == "rows"
    assert found["media.birds"] == found["media.birds.validation"] == "clips.dir"
    assert found["annotations.birds.validation"] == found["annotations.chat"] == sha256_file(tmp_path / "talk.json")[:36]


def test_every_corpus_is_recorded_with_rows_licence_and_hashes(tmp_path):
    found = corpora_of(corpus_tags(tmp_path, own(tmp_path)))
    assert set(found) == {"train.rendered", "train.birds", "train.chat", "validation.rendered", "validation.birds"}
    assert found["train.birds"] == {
        "kind": "video", "rows": 7, "licence": "cc-by-4.0",
        "annotations": "data/raw/birds/train.jsonl", "annotations_hash": "rows", "media": "data/raw/birds/media", "media_hash": "clips.dir",
    }  # fmt: skip
    assert found["train.chat"]["licence"] is None, "the project's LICENSE is not the corpus's"
    assert "media" not in found["train.chat"]


def test_the_card_speaks_of_shapes_only_when_there_was_nothing_else(tmp_path):
    shapes, tiny, mixed = "coloured shapes", load_params("recipes/tiny.yaml"), own(tmp_path)
    assert shapes in limits(tiny, {})[0]
    foreign = tiny.model_copy(update={"model": tiny.model.model_copy(update={"base": "x/y"})})
    continued = tiny.model_copy(update={"train": tiny.train.model_copy(update={"init_from": "models:/pllava@champion"})})
    for params in (mixed, foreign, continued):
        assert not any(shapes in limit for limit in limits(params, {}))
    run = SimpleNamespace(data=SimpleNamespace(tags=corpus_tags(tmp_path, mixed)), info=SimpleNamespace(run_id="1"), inputs=None)
    text = card(mixed, run, {}, "a")
    assert "- Corpus, train.birds: video, rows: 7, licence: cc-by-4.0; annotations `data/raw/birds/train.jsonl` `rows`" in text
