"""Any mixture of files gives one row a video, in order; a run that was stopped writes what it would have written."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from pllava.apps.caption.batch import caption_batches
from pllava.apps.caption.folder import Summary, caption_all
from pllava.apps.caption.inputs import expand
from pllava.apps.caption.job import Dense, Job, make_job
from pllava.chat import VideoChat
from pllava.chat.caption.limits import parse_limits
from pllava.core.errors import PllavaError
from pllava.core.hashing import stat_fingerprint
from pllava.core.params import load_params

WriteScenes = Callable[..., Path]
QUIET = Console(file=open(os.devnull, "w"))  # noqa: SIM115, PTH123


@pytest.fixture
def job(tiny_base_dir: Path) -> Callable[..., Job]:
    source = {"name": "tiny", "base": str(tiny_base_dir), "adapter": None, "template": "tiny", "why": "", "dtype": "float32"}
    return lambda **settings: Job(source=source, **{"question": "What?", "max_new_tokens": 4, "batch_size": 3, **settings})


@pytest.fixture
def videos(write_scenes: WriteScenes, tmp_path: Path) -> Path:
    """clips/: eight videos with odd names, and much that is none."""
    for number in range(5):
        write_scenes(f"clips/{number}.mp4", [6 + number])
    write_scenes("clips/deep/er/a b.mkv", [8])
    write_scenes('clips/deep/ünï 🎬,"quoted".mp4', [9])
    clips = tmp_path / "clips"
    pictures = [Image.new("RGB", (32, 24), (20 * number, 0, 0)) for number in range(6)]
    pictures[0].save(clips / "loop.GIF", save_all=True, append_images=pictures[1:], duration=100)
    (clips / "notes.txt").write_text("no video")
    (clips / "thumb.jpg").write_bytes(b"no video")
    (clips / "deep" / "loop").symlink_to(clips)
    return clips


def run(sources: list[Any], out: Path, job: Job, **settings: Any) -> Summary:
    return caption_all(sources, out, job, console=QUIET, **settings)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_order_and_captions_are_those_of_ask(videos: Path, tmp_path: Path, job: Callable[..., Job], chat: VideoChat):
    done = run([videos], tmp_path / "out.jsonl", job())
    assert (done.total, done.captioned, done.failed) == (8, 8, 0)
    names = [row["video"] for row in rows(done.out)]
    assert names == sorted(names)
    assert len(names) == 8
    assert not done.failures.exists()
    for row in rows(done.out):
        assert row["caption"] == chat.watch(row["video"]).ask("What?", max_new_tokens=4).text


def test_failures_have_a_file_of_their_own(videos: Path, write_scenes: WriteScenes, tmp_path: Path, job: Callable[..., Job]):
    (videos / "0junk.mp4").write_bytes(os.urandom(3000))
    (videos / "1empty.mp4").touch()
    cut = write_scenes("clips/2cut.mp4", [60], movflags="faststart")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (videos / "9gone.mp4").symlink_to(videos / "nowhere.mp4")
    done = run([videos, tmp_path / "clips" / "notes.txt"], tmp_path / "out.jsonl", job(limits={"max_frames": 9}))
    failed = {Path(row["video"]).name: row["error"] for row in rows(done.failures)}
    reasons = {
        "0junk.mp4": "not a readable",
        "1empty.mp4": "empty",
        "2cut.mp4": "cut off",
        "9gone.mp4": "no such file",
        "4.mp4": "limit is 9",
    }
    assert failed.keys() == {*reasons, "notes.txt"}
    for name, reason in reasons.items():
        assert reason in failed[name]
    assert done.captioned == len(rows(done.out)) == 7
    assert "6 failed" in str(done)
    (videos / "0junk.mp4").unlink()
    again = run([videos], tmp_path / "out.jsonl", job(limits={"max_frames": 9}))
    assert (again.total, again.kept, again.failed) == (11, 7, 4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_a_failure(videos: Path, tmp_path: Path, job: Callable[..., Job]):
    (videos / "0.mp4").chmod(0)
    (videos / "deep").chmod(0)
    done = run([videos], tmp_path / "out.jsonl", job())
    assert done.failed == 2


def test_a_folder_that_cannot_be_listed_is_a_failure(videos: Path, monkeypatch: pytest.MonkeyPatch):
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert str(videos / "deep") in list(expand([videos]))


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_stopped_and_resumed_is_uninterrupted(videos: Path, tmp_path: Path, job: Callable[..., Job], stop_after: int):
    (videos / "3.mp4").write_bytes(b"junk")
    whole = run([videos], tmp_path / "whole.jsonl", job())
    asked: list[str] = []

    def stopping(job: Job, batches: Any, tell: Any) -> Iterator[Any]:
        for number, found in enumerate(caption_batches(job, batches, tell)):
            if number == stop_after:
                raise KeyboardInterrupt
            yield found

    def listening(job: Job, batches: Any, tell: Any) -> Iterator[Any]:
        for found in caption_batches(job, batches, tell):
            asked.extend(path for path, _ in found)
            yield found

    with pytest.raises(KeyboardInterrupt):
        run([videos], tmp_path / "out.jsonl", job(), run=stopping)
    assert not (tmp_path / "out.jsonl").exists()
    done = run([videos], tmp_path / "out.jsonl", job(), run=listening)
    assert done.out.read_bytes() == whole.out.read_bytes()
    assert [row["error"] for row in rows(done.failures)] == [row["error"] for row in rows(whole.failures)]
    assert len(asked) == 8 - 3 * stop_after + (stop_after == 2), "what was done is done again"


def test_changes_are_captioned_anew(videos: Path, write_scenes: WriteScenes, tmp_path: Path, job: Callable[..., Job]):
    out = tmp_path / "out.jsonl"
    run([videos], out, job())
    write_scenes("clips/1.mp4", [20, 20])
    write_scenes("clips/00.mp4", [9])
    done = run([videos], out, job())
    assert (done.total, done.kept) == (9, 7)
    assert rows(out)[2]["num_frames"] == 40
    assert run([videos], out, job(question="Who?")).kept == 0
    assert run([videos], out, job(question="Who?"), fresh=True).kept == 0
    assert run([videos], out, job(question="Who?")).kept == 9


@pytest.mark.parametrize(
    "changed",
    [
        {"question": "Who?"},
        {"max_new_tokens": 5},
        {"lora_alpha": 4.0},
        {"dense": Dense()},
        {"batch_size": 4},
        {"limits": {"max_frames": 9}},
        {"source": {"name": "tiny", "base": "none", "adapter": None, "template": "vicuna"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_setting_is_another_run(job: Callable[..., Job], changed: dict[str, Any]):
    assert job().model_copy(update=changed).sha256() != job().sha256()


@pytest.mark.parametrize("changed", [{"readers": 7}, {"time_limit": 1.0}], ids=lambda changed: next(iter(changed)))
def test_a_setting_that_changes_no_caption_is_the_same_run(job: Callable[..., Job], changed: dict[str, Any]):
    assert job(**changed).sha256() == job().sha256()


def test_other_weights_are_another_run(job: Callable[..., Job], tiny_base_dir: Path, tmp_path: Path):
    shutil.copytree(tiny_base_dir, tmp_path / "base")
    mine = job()
    mine.source["base"] = str(tmp_path / "base")
    before = mine.sha256()
    assert mine.sha256() == before
    os.utime(tmp_path / "base" / "config.json", (1, 1))
    assert mine.sha256() != before


def test_a_video_named_twice_is_captioned_once(videos: Path, tmp_path: Path, job: Callable[..., Job]):
    done = run([videos / "1.mp4", videos / "0.mp4", videos / "1.mp4"], tmp_path / "out.jsonl", job())
    assert [Path(row["video"]).name for row in rows(done.out)] == ["1.mp4", "0.mp4"]
    assert done.total == 2


def test_formats_hold_the_same(videos: Path, tmp_path: Path, job: Callable[..., Job]):
    from pyarrow import parquet

    run([videos], tmp_path / "a.jsonl", job())
    run([videos], tmp_path / "a.csv", job())
    run([videos], tmp_path / "a.dat", job(), format="parquet")
    expected = rows(tmp_path / "a.jsonl")
    assert parquet.read_table(tmp_path / "a.dat").to_pylist() == expected
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert [row["caption"] for row in csv.DictReader(file)] == [row["caption"] for row in expected]


def test_dense_rows_and_subtitles(videos: Path, write_scenes: WriteScenes, tmp_path: Path, job: Callable[..., Job]):
    from pyarrow import parquet

    write_scenes("clips/long.mp4", [20, 20])
    (videos / "junk.mp4").write_bytes(b"junk")
    (tmp_path / "subtitles" / "any").mkdir(parents=True)
    dense = job(dense=Dense(summary=True), max_new_tokens=2)
    done = run([videos], tmp_path / "a.jsonl", dense, subtitles=tmp_path / "subtitles")
    assert (done.captioned, done.failed) == (9, 1)
    [row] = [row for row in rows(done.out) if row["video"].endswith("long.mp4")]
    assert [(segment["start"], segment["end"]) for segment in row["segments"]] == [(0.0, 2.0), (2.0, 4.0)]
    assert row["summary"]
    assert (tmp_path / "subtitles" / "long.mp4.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n")
    assert (tmp_path / "subtitles" / "deep" / "er" / "a b.mkv.vtt").is_file()
    assert len(list((tmp_path / "subtitles").rglob("*.vtt"))) == 9
    run([videos], tmp_path / "a.parquet", dense)
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == rows(done.out)


def test_sources(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert list(expand(["clips/*.mp4"])) == [f"clips/{number}.mp4" for number in range(5)]
    assert len(list(expand(["clips/**/*.mkv"]))) == 1
    (tmp_path / "list.txt").write_text("clips/3.mp4\n# a remark\n\nclips/gone.mp4\nclips/deep/er\n")
    assert list(expand(["@list.txt"])) == ["clips/3.mp4", "clips/gone.mp4", "clips/deep/er/a b.mkv"]
    assert list(expand(["clips/notes.txt"])) == ["clips/notes.txt"], "what is named is tried"
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(frames / f"{number:05d}.jpg")
    assert list(expand(["frames"])) == ["frames"], "a folder of numbered frames is a clip"
    for wrong, reason in (("none.mp4", "no such file"), ("*.none", "no file matches"), ("@none.txt", "cannot be read")):
        with pytest.raises(PllavaError, match=reason):
            list(expand([wrong]))


def test_bytes_that_are_no_text_in_a_name(write_scenes: WriteScenes, tmp_path: Path, job: Callable[..., Job]):
    name = os.fsencode(tmp_path) + b"/latin-\xe9.mp4"
    os.rename(write_scenes("a.mp4", [8]), name)  # noqa: PTH104
    done = run([tmp_path], tmp_path / "out.jsonl", job())
    [failed] = rows(done.failures)
    assert failed["video"].endswith("latin-\\xe9.mp4")
    assert "Rename it" in failed["error"]


def test_mistakes_are_said_and_leave_nothing(videos: Path, tmp_path: Path, job: Callable[..., Job]):
    (tmp_path / "empty").mkdir()
    for sources, out, settings, reason in (
        ([tmp_path / "empty"], "a.jsonl", {}, "no videos in"),
        ([videos], "a.txt", {}, "no format for captions"),
        ([videos], "a.jsonl", {"subtitles": tmp_path}, "add --dense"),
        ([videos], "", {"format": "csv"}, "is a folder"),
        ([videos], next(videos.rglob("*.mp4")) / "a.jsonl", {}, "cannot be written"),
    ):
        with pytest.raises(PllavaError, match=reason):
            run(sources, tmp_path / out, job(), **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "empty"]


def test_two_runs_do_not_write_one_file(videos: Path, tmp_path: Path, job: Callable[..., Job]):
    def second(job: Job, batches: Any, tell: Any) -> Iterator[Any]:
        with pytest.raises(PllavaError, match="is writing these captions"):
            run([videos], tmp_path / "out.jsonl", job)
        yield from caption_batches(job, batches, tell)

    assert run([videos], tmp_path / "out.jsonl", job(), run=second).captioned == 8
    assert not list(tmp_path.glob(".*.lock"))


def test_a_killed_run_is_no_obstacle_though_its_pid_is_someone_elses_by_now(videos: Path, tmp_path: Path, job: Callable[..., Job]):
    with sqlite3.connect(tmp_path / ".out.jsonl.progress") as database:  # as earlier versions wrote it
        database.execute("CREATE TABLE run (settings TEXT, pid INTEGER)")
        database.execute("INSERT INTO run VALUES (?, ?)", (job().sha256(), os.getppid()))
    assert run([videos], tmp_path / "out.jsonl", job()).captioned == 8
    assert run([videos], tmp_path / "out.jsonl", job()).kept == 8


@pytest.mark.parametrize(("same_settings", "kept"), [(True, 1), (False, 0)])
def test_captions_of_an_earlier_version_are_kept(videos: Path, tmp_path: Path, job: Callable[..., Job], same_settings: bool, kept: int):
    clip = videos / "0.mp4"
    caption = {"video": str(clip), "caption": "of then", "duration": 1.0, "num_frames": 8}
    with contextlib.closing(sqlite3.connect(tmp_path / ".out.jsonl.progress")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE run (settings TEXT)")
        database.execute("CREATE TABLE inputs (position INTEGER PRIMARY KEY, path BLOB UNIQUE)")
        database.execute("CREATE TABLE done (path BLOB PRIMARY KEY, fingerprint TEXT, failed INTEGER, row TEXT) WITHOUT ROWID")
        database.execute("INSERT INTO run VALUES (?)", (job().sha256() if same_settings else "other",))
        database.execute("INSERT INTO done VALUES (?, ?, 0, ?)", (os.fsencode(clip), stat_fingerprint(str(clip)), json.dumps(caption)))
        database.commit()
    summary = run([videos], tmp_path / "out.jsonl", job())
    assert summary.kept == kept
    assert [row["caption"] == "of then" for row in rows(summary.out)].count(True) == kept
    assert not (tmp_path / ".out.jsonl.progress.earlier").exists()


def test_failures_of_one_file_are_not_those_of_another(videos: Path, tmp_path: Path, job: Callable[..., Job]):
    (videos / "0.mp4").write_bytes(b"junk")
    first = run([videos], tmp_path / "out.jsonl", job())
    second = run([videos / "1.mp4"], tmp_path / "out.csv", job())
    assert second.failed == 0
    assert [Path(row["video"]).name for row in rows(first.failures)] == ["0.mp4"]
    assert first.failures.name == "out.failures.jsonl"


def test_limits_are_named():
    assert parse_limits(["max_seconds=1.5", "max_bytes=1e6"]) == {"max_seconds": 1.5, "max_bytes": 1_000_000}
    for wrong in ("max_minutes=3", "max_seconds", "max_seconds=x", "max_bytes=inf", "max_seconds=nan", "max_frames=-1"):
        with pytest.raises(PllavaError, match="NAME=NUMBER"):
            parse_limits([wrong])


@pytest.mark.parametrize("limits", [{"max_minutes": 3}, {"max_seconds": -1}])
def test_limits_of_a_form_are_checked_too(tiny_base_dir: Path, limits: dict[str, float]):
    with pytest.raises(PllavaError, match="NAME=NUMBER"):
        make_job(load_params(Path(__file__).parents[3] / "recipes/tiny.yaml"), str(tiny_base_dir), limits=limits)
