"""The page of labels: what a person writes is what `data add` reads, and nothing else is written, shown or reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from pllava.apps.label.app import create_app
from pllava.apps.label.notes import TEST, TRAIN, Notes
from pllava.benchmarks.benchmark import load_benchmark
from pllava.core.errors import PllavaError
from pllava.core.params import Corpus
from pllava.stages.prepare.instruction import read_corpus

CLIP = "sub folder/a pän #1.gif"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (CLIP, "b.gif"):
        (path := tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        frames = [Image.new("RGB", (32, 32), (step * 40, 90, 0)) for step in range(4)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    (tmp_path / "clips" / "notes.txt").write_text("no clip")
    return tmp_path / "clips"


@pytest.fixture
def page(folder: Path) -> TestClient:
    return TestClient(create_app(folder, hosts=("testserver",)))


def address(clip: str) -> str:
    return "/clip/" + clip.replace(" ", "%20").replace("#", "%23")


def test_questions_to_learn_are_read_by_prepare(page: TestClient, folder: Path) -> None:
    for number in range(2):
        answer = page.post(address(CLIP), data={"question": f"What <{number}>?", "answer": "Eggs."})
        assert answer.status_code == 200
    assert "What &lt;1&gt;?" in answer.text
    rows, problems = read_corpus(Corpus(name="own", annotations=folder / TRAIN, media=folder))
    assert problems == []
    (row,) = rows
    assert (row.media, [turn.q for turn in row.turns]) == (CLIP, ["What <0>?", "What <1>?"])


def test_questions_with_options_are_a_test_set(page: TestClient, folder: Path) -> None:
    page.post(address(CLIP), data={"question": "Which?", "answer": "rice", "options": "eggs\r\nrice\r\n\r\n"})
    (folder / "media").symlink_to(folder)
    (sample,) = [sample for sample in load_benchmark("own").samples(folder) if sample.candidates]
    assert (sample.media, sample.candidates, sample.answer) == (folder / "media" / CLIP, ("eggs", "rice"), "rice")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"question": " ", "answer": "a"}, "a question and its answer are needed"),
        ({"question": "?", "answer": "c", "options": "a\nb"}, "is none of the options"),
        ({"question": "?", "answer": "a", "options": "a\na"}, "different options"),
        ({"question": "?", "answer": "a", "options": "a"}, "different options"),
        ({"question": "?" * 3000, "answer": "a"}, "at most 2000"),
    ],
)
def test_a_wrong_form_comes_back_as_it_was_typed(page: TestClient, folder: Path, typed: dict[str, str], sentence: str) -> None:
    answer = page.post(address(CLIP), data=typed)
    assert answer.status_code == 400
    assert sentence in answer.text
    assert f">{typed['answer']}</textarea>" in answer.text
    assert not (folder / TRAIN).exists()
    assert not (folder / TEST).exists()


def test_a_clip_is_for_learning_or_for_the_test(folder: Path) -> None:
    notes = Notes(folder)
    notes.add(CLIP, "Which?", "a", ["a", "b"])
    with pytest.raises(PllavaError, match="a clip is in one of training and test"):
        notes.add(CLIP, "What?", "It.")
    notes.add("b.gif", "What?", "It.")
    with pytest.raises(PllavaError, match="a clip is in one of training and test"):
        notes.add("b.gif", "Which?", "a", ["a", "b"])


def test_what_others_wrote_is_kept(folder: Path) -> None:
    others = [{"video": CLIP, "QA": [{"i": "Be brief.", "q": "", "a": "A pan."}], "start": 1.0, "end": 2.0, "note": "mine"}]
    (folder / TRAIN).write_text(json.dumps(others))
    notes = Notes(folder)
    notes.add(CLIP, "What?", "It.")
    notes.add("b.gif", "What?", "It.")
    notes.remove("b.gif", "What?")
    assert json.loads((folder / TRAIN).read_text()) == [*others, {"video": CLIP, "QA": [{"i": "", "q": "What?", "a": "It."}]}]


@pytest.mark.parametrize("name", [TRAIN, TEST])
@pytest.mark.parametrize("text", ["{", "[1]", "3", "[" * 100_000])
def test_a_damaged_file_is_said_and_left_alone(page: TestClient, folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    answer = page.post(address(CLIP), data={"question": "?", "answer": "a"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    assert (folder / name).read_text() == text


@pytest.mark.parametrize("path", ["/media/notes.txt", "/media/../clips/notes.txt", "/clip/%2e%2e/x.gif", "/frame/0/notes.txt"])
def test_nothing_but_clips_is_served(page: TestClient, path: str) -> None:
    assert page.get(path).status_code == 404


def test_a_link_out_of_the_folder_is_no_clip(page: TestClient, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.gif").write_bytes((folder / "b.gif").read_bytes())
    (folder / "out.gif").symlink_to(tmp_path / "secret.gif")
    assert page.get("/media/out.gif").status_code == 404


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}])
def test_a_page_of_another_origin_writes_nothing(page: TestClient, folder: Path, headers: dict[str, str]) -> None:
    assert page.post(address(CLIP), data={"question": "?", "answer": "a"}, headers=headers).status_code in (403, 421)
    assert not (folder / TRAIN).exists()


def test_a_password_is_asked_for(folder: Path) -> None:
    client = TestClient(create_app(folder, auth=("me", "secret")))
    assert client.get("/").status_code == 401
    assert client.get("/", auth=("me", "secret")).status_code == 200
