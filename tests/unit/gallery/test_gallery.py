"""The gallery: what a filter finds, what a comparison counts, and what can't be read through it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from foreign_page import ask, gets_nothing, served
from gallery_results import HOSTILE, result, write

from pllava.apps.gallery import current
from pllava.apps.gallery.app import create_app
from pllava.apps.gallery.current import Current
from pllava.apps.gallery.index import build
from pllava.apps.gallery.queries import Filter, Index
from pllava.apps.web import media
from pllava.artifacts import gallery_links as links
from pllava.core.errors import PllavaError
from pllava.registry.result_sources import find

LOCAL = ("127.0.0.1", "localhost", "testserver")


def open_index(home: Path, *places: str, media: dict[str, Path] | None = None) -> tuple[Index, TestClient]:
    results = Current([str(place) for place in places], None, media, home)
    return results.now().index, TestClient(create_app(results, hosts=LOCAL), raise_server_exceptions=True)


@pytest.fixture
def two(tmp_path):
    """Ten questions. old: right on 0-4; new: right on 3-7. Question 9 was not judged in new."""
    old = write(tmp_path / "old", [result(n, "adapted", n < 5) for n in range(10)])
    new = write(tmp_path / "new", [result(n, "adapted", None if n == 9 else 3 <= n < 8) for n in range(10)])
    return open_index(tmp_path / "index", old, new)


def test_a_comparison_counts_gains_and_losses_of_questions_that_both_have_a_verdict_for(two):
    index, _ = two
    assert list(index.models) == ["old: adapted", "new: adapted"]
    found = index.compare(("old: adapted", "new: adapted"), "")
    total = found["total"]
    assert (total["n"], total["gained1"], total["lost1"]) == (9, 3, 3)
    assert {row["task"]: (row["gained1"], row["lost1"]) for row in found["tasks"]} == {"Count": (1, 2), "Direction": (2, 1)}
    pair = found["pairs"][0]
    assert (pair["both"], pair["only_a"], pair["only_b"], pair["neither"]) == (2, 3, 3, 1)
    assert pair["same"] == pytest.approx(3 / 9)
    assert pair["kappa"] == pytest.approx((3 / 9 - 41 / 81) / (1 - 41 / 81))
    assert found["left_out"] == {"old: adapted": 1, "new: adapted": 1}


@pytest.mark.parametrize(
    ("side", "numbers"),
    [
        ("differ", [0, 1, 2, 5, 6, 7]),
        ("gained", [5, 6, 7]),
        ("lost", [0, 1, 2]),
        ("both right", [3, 4]),
        ("both wrong", [8]),
        ("all", list(range(9))),
    ],
)
def test_each_side_of_a_comparison_lists_its_questions(two, side, numbers):
    index, _ = two
    chosen = Filter(models=("old: adapted", "new: adapted"), side=side)
    assert [row["sample"] for row in index.page(chosen)] == [f"moves/{n:04d}" for n in numbers]
    assert index.count(chosen) == len(numbers)


def test_filters_narrow_together(two):
    index, _ = two
    assert index.count(Filter(model="old: adapted", verdict="right")) == 5
    assert index.count(Filter(model="old: adapted", verdict="right", task="Count")) == 3
    assert index.count(Filter(model="new: adapted", verdict="not judged")) == 1
    assert index.count(Filter(text="NUMBER 7")) == 1
    assert index.count(Filter(text="(b) right", task="Direction")) == 4  # words of an answer: each odd question has a wrong one but 3
    assert index.count(Filter(text="%")) == 0  # no wildcard


def test_questions_that_differ_are_not_one_even_with_one_id(tmp_path):
    a = write(tmp_path / "a", [result(0, "adapted", True)])
    b = write(tmp_path / "b", [result(0, "adapted", True, answer="(B) right")])
    index, client = open_index(tmp_path / "index", a, b)
    assert index.total == 2
    assert index.compare(("a: adapted", "b: adapted"), "")["total"]["n"] == 0
    assert "no question in common" in client.get("/compare").text
    assert "Another test set" in client.get("/sample/mvbench/moves/0000").text


def test_a_deep_link_shows_one_question_and_its_neighbours_of_the_filter(two):
    _, client = two
    page = client.get("/sample/mvbench/moves/0005?models=old:+adapted&models=new:+adapted&side=gained").text
    assert "Question number 5?" in page
    assert "1 of 3 that match" in page
    assert "/sample/mvbench/moves/0006?" in page
    assert 'rel="prev"' not in page
    assert client.get("/sample/mvbench/moves/4711").status_code == 404


def test_what_a_model_wrote_is_text(tmp_path, clips):
    rows = [
        result(0, HOSTILE, False, question=HOSTILE, prediction=HOSTILE, answer=HOSTILE, task=HOSTILE, candidates=[HOSTILE], media=HOSTILE)
    ]
    rows[0]["scores"] = {HOSTILE: {"value": None, "missing": HOSTILE}}
    _, client = open_index(tmp_path / "index", write(tmp_path / "r", rows), media={"": clips})
    for address in ("/", "/sample/mvbench/moves/0000", "/?text=%3Cscript%3Ealert(1)%3C/script%3E", "/sample/x/%3Cscript%3E"):
        page = client.get(address)
        assert "<img src=x" not in page.text
        assert "<script>" not in page.text
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "media", ["../secret.mp4", "video/../../secret.mp4", "{root}/../secret.mp4", "video/link.mp4", "", ".", "video/links", "a\0b"]
)
def test_nothing_outside_the_clips_folder_is_read(tmp_path, clips, media):
    link, links = clips / "video/link.mp4", clips / "video/links"
    if not links.exists():
        link.symlink_to(clips.parent / "secret.mp4")
        links.mkdir()
        (links / "00001.jpg").symlink_to(clips.parent / "secret.mp4")
    row = result(0, "adapted", True, media=media.format(root=clips))
    _, client = open_index(tmp_path / "index", write(tmp_path / "r", [row]), media={"": clips})
    for address in ("/media/1", "/frames/1", "/frames/1/0.jpg"):
        assert client.get(address).status_code == 404
    page = client.get("/sample/mvbench/moves/0000").text
    assert "be shown" in page
    assert str(clips) not in page.replace(row["media"], "")


def test_clips_are_played_or_shown_as_frames(tmp_path, clips):
    names = ["0.mp4", "old.avi", "loop.gif", "frames"]
    rows = [result(n, "adapted", True, media=f"video/{name}") for n, name in enumerate(names)]
    _, client = open_index(tmp_path / "index", write(tmp_path / "r", rows), media={"mvbench": clips})
    kinds = {name: client.get(f"/media/{n}") for n, name in enumerate(names, 1)}
    assert {name: answer.status_code for name, answer in kinds.items()} == {"0.mp4": 200, "old.avi": 415, "loop.gif": 200, "frames": 415}
    assert kinds["0.mp4"].headers["content-type"] == "video/mp4"
    part = client.get("/media/1", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    for number in range(1, 5):
        assert client.get(f"/frames/{number}").text.count("<figure>") == 16
        assert client.get(f"/frames/{number}/0.jpg").content.startswith(b"\xff\xd8")
    assert client.get("/frames/1/99.jpg").status_code == 404


def test_clips_that_are_slow_to_read_leave_the_pages_to_others(tmp_path, clips, monkeypatch):
    rows = [result(n, "adapted", True, media="video/0.mp4", start=n / 10) for n in range(3)]
    _, client = open_index(tmp_path / "index", write(tmp_path / "r", rows), media={"mvbench": clips})
    monkeypatch.setattr(media, "PATIENCE", 0.1)
    monkeypatch.setattr(media, "TURNS", threading.BoundedSemaphore(1))
    media._content_type.cache_clear()
    with media._turn():
        assert client.get("/media/1").status_code == 503
        assert "Reload the page" in client.get("/frames/2").text
        assert client.get("/frames/3/0.jpg").status_code == 415
        assert client.get("/").status_code == client.get("/sample/mvbench/moves/0000").status_code == 200
    assert client.get("/media/1").status_code == 200, "a refusal is not remembered"
    assert client.get("/frames/2").text.count("<figure>") == 16


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "-1", "0", "1e3"])
def test_a_number_that_no_question_has_is_not_found(two, number):
    _, client = two
    for address in (f"/media/{number}", f"/frames/{number}", f"/frames/{number}/1.jpg", f"/frames/1/{number}.jpg"):
        assert client.get(address).status_code == 404
    assert client.get(f"/?page={number}").status_code == 200


@pytest.mark.parametrize("second", ["9" * 5000, "1e400", "-1e400", "NaN", "Infinity", f'"{"9" * 5000}"', '"1:02"'])
@pytest.mark.parametrize("key", ["start", "end"])
def test_a_time_that_is_no_number_is_named_in_one_sentence(tmp_path, key, second):
    folder = write(tmp_path / "r", [result(0, "adapted", True)])
    file = folder / "mvbench" / "results.jsonl"
    file.write_text(file.read_text().replace(f'"{key}": null', f'"{key}": {second}'))
    with pytest.raises(PllavaError, match="line 1 is no") as refused:
        open_index(tmp_path / "index", folder)
    assert len(str(refused.value).replace(str(file), "")) < 250


def test_a_part_of_a_clip_is_what_plays_and_what_is_sampled(tmp_path, clips):
    row = result(0, "adapted", True, media="video/0.mp4", start=0.5, end=1.5)
    _, client = open_index(tmp_path / "index", write(tmp_path / "r", [row]), media={"": clips})
    assert re.search(r'src="/media/1\?of=\w{16}#t=0.5,1.5"', client.get("/sample/mvbench/moves/0000").text)
    times = [float(piece.split(" s<")[0]) for piece in client.get("/frames/1").text.split("<figcaption>")[1:]]
    assert min(times) >= 0.5
    assert max(times) <= 1.5


def test_a_list_has_a_picture_of_each_clip_that_can_be_read(tmp_path, clips):
    (clips / "video/torn.mp4").write_bytes(b"no video at all")
    media = ["video/0.mp4", "video/loop.gif", "video/torn.mp4", "video/none.mp4", "../secret.mp4"]
    rows = [result(number, "adapted", True, media=name) for number, name in enumerate(media)]
    _, client = open_index(tmp_path / "index", write(tmp_path / "r", rows), media={"": clips})
    addresses = re.findall(r'<img class="thumbnail" src="([^"]+)" alt=""', client.get("/").text)
    assert len(addresses) == len(media)
    pictures = [client.get(address) for address in addresses]
    assert [picture.content[:2] == b"\xff\xd8" for picture in pictures] == [True, True, False, False, False]
    assert {picture.status_code for picture in pictures} == {200}
    assert client.get("/thumbnail/1.jpg?of=another").headers["content-type"] == "image/svg+xml"


def test_a_broken_clip_is_a_sentence_without_its_place(tmp_path, clips):
    (clips / "video/broken.mp4").write_bytes(b"no video at all")
    row = result(0, "adapted", False, media="video/broken.mp4", error="does not decode")
    _, client = open_index(tmp_path / "index", write(tmp_path / "r", [row]), media={"": clips})
    frames = client.get("/frames/1")
    assert "broken.mp4" in frames.text
    assert str(clips) not in frames.text
    assert client.get("/media/1").status_code == 415
    assert "does not decode" in client.get("/sample/mvbench/moves/0000").text


def test_another_name_and_a_missing_password_are_refused(tmp_path):
    results = Current([str(write(tmp_path / "r", [result(0, "adapted", True)]))], home=tmp_path / "index")
    client = TestClient(create_app(results, ("me", "secret"), LOCAL))
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 421
    assert client.get("/").status_code == 401
    assert client.get("/media/1").status_code == 401
    assert client.get("/static/gallery.js").status_code == 401
    assert client.get("/", auth=("me", "wrong")).status_code == 401
    assert client.get("/", auth=("me", "secret")).status_code == 200


def test_a_page_of_another_origin_gets_nothing(tmp_path):
    results = Current([str(write(tmp_path / "r", [result(0, "adapted", True)]))], home=tmp_path / "index")
    with served(create_app(results, hosts=LOCAL)) as url:
        gets_nothing(url, ["/", "/media/1", "/static/gallery.js"])
        assert ask(url, Origin=url)[0] == 200


def test_every_answer_of_the_server_carries_the_policy(two):
    _, client = two
    for address in ("/", "/nowhere", "/static/gallery.css", "/frames/1"):
        assert client.get(address).headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_nonsense_in_the_address_is_no_error_of_ours(two):
    _, client = two
    for address in ("/?page=-3", "/?page=9999999999999", "/?page=²", "/?verdict=x&model=y&task=z", "/?text=%27%22%25_", "/compare?side=x"):
        assert client.get(address).status_code == 200
    assert client.get("/compare?models=x&models=y").status_code == 404
    assert "two models" in client.get("/compare?models=old:+adapted").text
    assert client.get("/frames/abc").status_code in (404, 422)


def test_an_index_is_taken_again_until_the_results_change(tmp_path):
    folder = write(tmp_path / "r", [result(0, "adapted", True)])
    first = build(find([str(folder)]), tmp_path / "index")
    assert build(find([str(folder)]), tmp_path / "index") == first
    write(folder, [result(0, "adapted", True), result(1, "adapted", True)])
    assert build(find([str(folder)]), tmp_path / "index") != first


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not json", "line 2 is not JSON"),
        ("[1]", "it is no result"),
        (json.dumps({"id": 1}), "no model"),
        (json.dumps(result(1, "adapted", True) | {"scores": None}), "line 2 is no result"),
        (json.dumps(result(1, "adapted", True) | {"error": {"a": 1}}), "line 2 is no result"),
        (json.dumps(result(0, "adapted", True)), "second answer"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    folder = write(tmp_path / "r", [result(0, "adapted", True)])
    path = folder / "mvbench/results.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(PllavaError, match=says):
        build(find([str(folder)]), tmp_path / "index")
    assert list((tmp_path / "index").glob("*")) == []


def test_a_place_without_results_is_named(tmp_path):
    with pytest.raises(PllavaError, match=r"holds no results\.jsonl"):
        find([str(tmp_path)])
    with pytest.raises(PllavaError, match="is not there"):
        find([str(tmp_path / "nowhere")])
    with pytest.raises(PllavaError, match="not the id of an MLflow run"):
        find(["mlflow-run:../../etc"])


def test_an_index_that_cannot_be_kept_is_said(tmp_path):
    folder = write(tmp_path / "r", [result(0, "adapted", True)])
    (tmp_path / "file").touch()
    with pytest.raises(PllavaError, match=r"can't be written to .*file/index"):
        build(find([str(folder)]), tmp_path / "file/index")


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path, monkeypatch):
    write(tmp_path / "lr=0.1", [result(0, "adapted", True)])
    monkeypatch.chdir(tmp_path)
    assert [file.source for file in find(["lr=0.1"])] == ["lr=0.1"]
    assert [file.source for file in find(["low=lr=0.1"])] == ["low"]


def test_names_of_sources_are_the_shortest_that_differ(tmp_path):
    row = [result(0, "adapted", True)]
    places = [str(write(tmp_path / name / "outputs/evaluate", row)) for name in ("a", "b")]
    assert [file.source for file in find(places)] == ["a", "b"]
    assert [file.source for file in find([f"x={places[0]}", f"y={places[1]}"])] == ["x", "y"]
    with pytest.raises(PllavaError, match="two of the results are called"):
        find([places[0], places[0]])


@pytest.fixture
def changing(tmp_path, clips, monkeypatch):
    """(folder of results, client): the disk is looked at for every page."""
    monkeypatch.setattr(current, "EVERY", 0.0)
    folder = write(tmp_path / "r", [result(n, "adapted", True) for n in range(3)])
    return folder, open_index(tmp_path / "index", folder, media={"": clips})[1]


def test_results_that_change_are_shown_as_they_are_now(changing):
    folder, client = changing
    assert "3 questions" in client.get("/").text
    page = client.get("/sample/mvbench/moves/0000").text
    clip = re.search(r"/media/1\?of=\w+", page)[0]
    assert client.get(clip).status_code == 200
    write(folder, [result(n, "adapted", False) for n in range(9)])
    write(folder, [result(0, "adapted", True)], "second")
    page = client.get("/").text
    assert "10 questions" in page
    assert "second" in page
    assert 'class="problem"' not in page
    assert client.get(clip).status_code == 410, "its number may be another question's by now"


def test_results_that_cannot_be_read_any_more_leave_those_from_before(changing):
    folder, client = changing
    file = folder / "mvbench/results.jsonl"
    good = file.read_text()
    file.write_text(good + "{\n")
    for _ in range(2):
        page = client.get("/").text
        assert "3 questions" in page
        assert "line 4 is not JSON" in page
    shutil.move(folder / "mvbench", folder / ".mvbench.1.partial")  # as while it is written
    page = client.get("/").text
    assert "3 questions" in page
    assert "holds no results.jsonl" in page
    shutil.move(folder / ".mvbench.1.partial", folder / "mvbench")
    file.write_text(good + json.dumps(result(3, "adapted", True)) + "\n")
    page = client.get("/").text
    assert "4 questions" in page
    assert 'class="problem"' not in page


def test_large_results_are_read_while_those_from_before_are_shown(changing, monkeypatch):
    folder, client = changing
    go = threading.Event()
    monkeypatch.setattr(current, "PATIENCE", 0.01)
    monkeypatch.setattr(current, "build", lambda *arguments: go.wait(60) and build(*arguments))
    write(folder, [result(n, "adapted", True) for n in range(5)])
    page = client.get("/").text
    assert "3 questions" in page
    assert "being read again" in page
    go.set()
    monkeypatch.setattr(current, "PATIENCE", 60)
    page = client.get("/").text
    assert "5 questions" in page
    assert "being read again" not in page


def test_a_folder_that_names_its_sources_is_all_of_them(tmp_path):
    for name, right in {"a": True, "b": False}.items():
        write(tmp_path / "sweep" / name, [result(0, "adapted", right)])
    (tmp_path / "sweep/sources.json").write_text(json.dumps({"rank 8, alpha 4": "a", "rank 8, alpha 32": "b", "to come": "c"}))
    index, client = open_index(tmp_path / "index", tmp_path / "sweep")
    assert list(index.models) == ["rank 8, alpha 4: adapted", "rank 8, alpha 32: adapted"]
    found = [file.source for file in find([str(tmp_path / "sweep"), f"x={tmp_path / 'sweep/a'}"])]
    assert found == ["sweep, rank 8, alpha 4", "sweep, rank 8, alpha 32", "x"]
    address = links.comparison("mvbench", *(links.label(f"rank 8, alpha {alpha}", "adapted") for alpha in (4, 32)))
    assert "−1" in client.get(address.removeprefix(links.ADDRESS)).text
    (tmp_path / "sweep/sources.json").write_text("[1]")
    with pytest.raises(PllavaError, match=r"sources\.json does not name folders"):
        find([str(tmp_path / "sweep")])
