"""The chat page in a real browser: a clip, a question, a streamed answer, Stop, a second visitor, hostile words and files, a phone."""

import json
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from window import serious, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
WIDTHS = pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
BUTTONS = ["stop", "retry", "clear", "new", "markdown", "json"]
BOT, USER = "#chat [data-testid=bot]", "#chat [data-testid=user]"


@pytest.fixture
def visit(visitor, demo):
    """visit(width, height, ...) -> a window with the page, ready."""

    def open_page(*size, **options):
        window = visitor(*size, **options)
        with window.page.expect_response(re.compile("/gradio_api/run/predict")):  # what the page asks for once its listeners are there
            window.page.goto(demo[0])
        window.page.wait_for_selector("#samples button.thumbnail-item")
        return window

    return open_page


def upload(page, path):
    page.locator("#upload input[type=file]").set_input_files(path)


def ask(page, question):
    page.locator("#question textarea").fill(question)
    page.locator("#question textarea").press("Enter")


def answers(page):
    """Without the line that says who gave them."""
    return [text.partition("\u2063")[0].strip() for text in page.locator(BOT).all_inner_texts()]


def questions(page):
    """As they read: what keeps markup from being markup has no width."""
    return [text.replace("\u200b", "") for text in page.locator(USER).all_inner_texts()]


def finished(page, number=1):
    """Wait for so many answers, the last of them whole."""
    until(page, f"document.querySelectorAll('{BOT}').length >= {number}")
    last = ""
    while not (text := "".join(answers(page)[-1:])) or text != last:
        last = text
        page.wait_for_timeout(250)


@WIDTHS
def test_a_clip_is_uploaded_asked_about_and_the_answer_streams(visit, demo, clip, width, height):
    window = visit(width, height)
    page = window.page
    upload(page, clip)
    page.wait_for_selector(".strip img")
    assert page.locator(".strip figure").count() == 8
    assert page.locator(".strip figcaption").all_inner_texts() == sorted(page.locator(".strip figcaption").all_inner_texts())
    assert "72 visual tokens" in page.locator(".facts").first.inner_text()
    until(page, "document.querySelector('#video video')?.readyState >= 2")
    ask(page, "Describe the video in detail.")
    page.wait_for_selector(BOT)
    growing = answers(page)
    while len(growing) < 4:
        until(page, f"document.querySelector('{BOT}').innerText.split('\\u2063')[0].trim() !== {json.dumps(growing[-1])}")
        growing += answers(page)
    assert all(b.startswith(a) for a, b in pairwise(growing)), growing
    finished(page)
    ask(page, "How many?")
    finished(page, 2)
    assert len(answers(page)) == 2
    assert not window.scrolls_sideways()
    assert "what it says about real videos means little" in page.locator(".notice").inner_text()
    assert window.outside(demo[0]) == []
    assert window.problems == []


def enabled(page):
    return [name for name in BUTTONS if page.locator(f"#{name}").is_enabled()]


def test_stop_ends_the_answer_and_the_model_is_free_again(visit, clip):
    page = visit().page
    assert enabled(page) == []
    upload(page, clip)
    page.wait_for_selector(".strip img")
    page.locator("#new:enabled").wait_for()
    assert enabled(page) == ["new"]
    ask(page, "Describe the video in detail.")
    page.wait_for_selector(BOT)
    page.locator("#stop:enabled").wait_for()
    assert enabled(page) == BUTTONS
    page.locator("#stop").click()
    page.wait_for_timeout(600)
    stopped = answers(page)
    page.wait_for_timeout(900)
    assert answers(page) == stopped
    assert page.locator(f"{BOT} small").inner_text().endswith("· stopped")
    assert enabled(page) == BUTTONS[1:]
    page.locator("#retry").click()
    until(page, f"(document.querySelector('{BOT}')?.textContent ?? '').split('\\u2063')[0].length > {len(stopped[0]) + 1}")
    finished(page)
    assert len(answers(page)[0]) > len(stopped[0])
    assert answers(page)[0].startswith(stopped[0])
    until(page, f"/· \\d+ tokens? · \\d+\\.\\d s$/.test(document.querySelector('{BOT} small').innerText)")
    page.locator("#stop:disabled").wait_for()
    page.locator("#clear").click()
    page.locator("#retry:disabled").wait_for()
    assert enabled(page) == ["new"]


def test_a_frame_and_a_time_in_an_answer_move_the_player_and_a_chat_is_saved(visit, clip, monkeypatch):
    from pllava.chat.stream import Stream

    pieces = Stream.pieces

    def with_times(self):
        list(pieces(self))
        yield from ("It stops at 1.2 s, ", "not at 3.2 s.")

    monkeypatch.setattr(Stream, "pieces", with_times)
    window = visit()
    page = window.page
    upload(page, clip)
    page.wait_for_selector(".strip img")
    until(page, "document.querySelector('#video video')?.readyState >= 2")
    frame = page.locator(".strip button").nth(4)
    frame.focus()
    page.keyboard.press("Enter")
    until(page, "Math.abs(document.querySelector('#video video').currentTime - 1) < 0.05")
    ask(page, "When?")
    page.locator(f"{BOT} small", has_text="token").wait_for()
    assert page.locator(f"{BOT} a").all_inner_texts() == ["1.2 s"]
    page.locator(f"{BOT} a").click()
    until(page, "Math.abs(document.querySelector('#video video').currentTime - 1.2) < 0.05")
    assert len(window.context.pages) == 1
    saved = {}
    for kind in ("json", "markdown"):
        with page.expect_download() as download:
            page.locator(f"#{kind}").click()
        saved[download.value.suggested_filename] = Path(download.value.path()).read_text()
    turn = json.loads(saved["moving bar.json"])["turns"][0]
    assert turn["answer"] == "It stops at 1.2 s, not at 3.2 s."
    assert len(turn["frames"]) == turn["settings"]["num_frames"] == 8
    assert "It stops at 1.2 s, not at 3.2 s." in saved["moving bar.md"]
    assert window.problems == []


@WIDTHS
def test_two_versions_answer_beside_each_other_and_a_vote_is_kept(visit, demo, clip, monkeypatch, width, height):
    from pllava.apps.demo import duel, server
    from pllava.core.ledger import Ledger

    monkeypatch.setattr(server, "rival", lambda params, serving: serving)
    window = visit(width, height)
    page = window.page
    page.locator("#both").click()
    page.locator("#duel .problem", has_text="Choose a video").wait_for()
    upload(page, clip)
    page.wait_for_selector(".strip img")
    page.locator("#question textarea").fill("How many?")
    page.locator("#both").click()
    page.get_by_role("button", name="Equally good").click()
    page.locator("#duel", has_text="Kept: equally good.").wait_for()
    assert page.locator(".duel > div").count() == 2
    assert page.get_by_role("button", name="Equally good").count() == 0
    with Ledger(demo[1].parent / duel.VOTES.name) as votes:
        last = [row for _, row in votes.items()][-1]
    assert (last["question"], last["vote"], last["video"]) == ("How many?", "same", clip.name)
    assert not window.scrolls_sideways()
    assert serious(page) == []
    assert window.problems == []


def test_a_tapped_sample_shows_the_chat_on_a_phone(visit):
    page = visit(390, 844).page
    page.locator("#samples button.thumbnail-item").first.click()
    page.wait_for_selector(".strip img")
    until(page, "document.querySelector('#chat').getBoundingClientRect().top < innerHeight / 3")


def test_a_question_asked_while_another_is_answered_is_not_lost(visit, clip):
    page = visit().page
    upload(page, clip)
    page.wait_for_selector(".strip img")
    ask(page, "Describe the video in detail.")
    page.wait_for_selector(BOT)
    ask(page, "How many?")
    until(page, f"document.querySelectorAll('{USER}').length === 2")
    finished(page, 2)
    assert questions(page) == ["Describe the video in detail.", "How many?"]
    assert len(answers(page)) == 2


def test_a_question_is_edited_asked_again_and_the_conversation_cleared(visit, clip):
    page = visit().page
    page.locator("#samples button.thumbnail-item").first.click()
    page.wait_for_selector(".strip img")
    assert "<b>move</b>?" in page.locator("#frames").inner_text()
    page.locator("#questions button").first.click()
    finished(page)
    assert questions(page) == ["Where does it <b>move</b>?"]
    page.get_by_label("Edit").first.click()
    page.locator("#chat textarea").fill("What color is it?")
    page.get_by_label("Submit").first.click()
    until(page, f"document.querySelector('{USER}')?.textContent.includes('What color is it?')")
    finished(page)
    assert len(answers(page)) == 1
    page.locator("#clear").click()
    until(page, f"document.querySelectorAll('{USER}').length === 0")
    page.locator("#new").click()
    until(page, "document.querySelector('#frames .empty') !== null")
    assert page.locator("#video video").count() == 0


def test_visitors_do_not_see_each_other_and_wait_in_a_line_that_can_be_full(visit, clip, demo, held, monkeypatch):
    first, second, third = (visit().page for _ in range(3))
    for page in (first, second, third):
        upload(page, clip)
        page.wait_for_selector(".strip img")
    monkeypatch.setattr(demo[2]._queue, "max_size", 1)
    while any(demo[2]._queue.active_jobs):  # an answer of an earlier test, whose page is closed
        first.wait_for_timeout(50)
    held.clear()
    ask(first, "Describe the video in detail.")
    first.wait_for_selector(BOT)
    ask(second, "What happens in the video?")
    while not len(demo[2]._queue):  # the page may be told its place before it can show it, so the place is asked of the server
        second.wait_for_timeout(50)
    ask(third, "How many?")
    third.get_by_text("currently busy. Please try again").wait_for()
    held.set()
    finished(first)
    finished(second)
    third.locator("#retry").click()
    finished(third)
    for page, question in ((first, "Describe the video in detail."), (second, "What happens in the video?"), (third, "How many?")):
        assert questions(page) == [question]
        assert len(answers(page)) == 1
    fourth = visit().page
    assert fourth.locator(USER).count() == 0
    assert fourth.locator(".strip").count() == 0
    assert len(list(demo[1].rglob("moving bar.mp4"))) == 1
    first.close()
    second.locator("#new").click()
    third.close()
    deadline = 40
    while list(demo[1].rglob("moving bar.mp4")) and deadline:
        second.wait_for_timeout(100)
        deadline -= 1
    assert list(demo[1].rglob("moving bar.mp4")) == []


def test_words_and_file_names_are_text(visit, tmp_path, clip):
    window = visit()
    page = window.page
    name = "<img src=x onerror=document.title=1>&lt;b.mp4"
    (tmp_path / name).write_bytes(clip.read_bytes())
    upload(page, tmp_path / name)
    page.wait_for_selector(".strip img")
    words = '<img src="x" onerror="document.title=1"><b>bold</b> &amp; **stars** <script>document.title=2</script>'
    ask(page, words)
    finished(page)
    assert questions(page) == [words]
    assert page.locator("img[src='x'], #chat b, #chat script").count() == 0
    assert page.title() == "PLLaVA"
    assert window.problems == []


def test_a_file_that_is_no_clip_is_a_sentence_and_removed(visit, demo, tmp_path):
    page = visit().page
    contents = {
        "fake.mp4": b"this is no video",
        "page.mp4": b"<html><script>document.title=1</script>",
        "empty.gif": b"",
        "cut.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        upload(page, tmp_path / name)
        page.locator(".problem", has_text=name).wait_for()
        text = page.locator(".problem").inner_text()
        assert "Traceback" not in text
        assert "/uploads/" not in text
        assert "Limits(" not in text
        assert [path.name for path in demo[1].rglob(name)] == []
    ask(page, "What happens?")
    page.wait_for_selector("text=Please choose a video first")


def test_a_file_above_the_limit_is_refused(visit, demo, tmp_path, clip):
    page = visit().page
    (tmp_path / "huge.mp4").write_bytes(clip.read_bytes() + bytes(2 << 20))
    upload(page, tmp_path / "huge.mp4")
    page.get_by_text(re.compile("exceeds|too large|maximum", re.IGNORECASE)).first.wait_for()
    assert list(demo[1].rglob("huge.mp4")) == []
    upload(page, clip)
    page.wait_for_selector(".strip img")


def test_a_video_above_the_duration_limit_is_refused(visit, demo, tmp_path):
    """31 minutes, of one picture every ten seconds."""
    import av
    import numpy as np

    with av.open(str(tmp_path / "lecture.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, 10), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(186):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    page = visit().page
    upload(page, tmp_path / "lecture.mp4")
    page.wait_for_selector(".problem")
    assert re.fullmatch(
        r"lecture\.mp4: 1,8\d\d seconds, the limit is 1,800\. Cut or scale the video", page.locator(".problem").inner_text()
    )
    assert list(demo[1].rglob("lecture.mp4")) == []


def test_an_image_is_shown_and_asked_about(visit, tmp_path):
    page = visit(390, 844).page
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    upload(page, tmp_path / "red.png")
    page.wait_for_selector(".strip img")
    until(page, "document.querySelector('#picture img')?.naturalWidth === 128")
    assert "One image" in page.locator(".facts").first.inner_text()
    assert page.locator(".strip figcaption, .strip button").count() == 0
    ask(page, "What color is it?")
    page.wait_for_selector(BOT)
    until(page, f"document.querySelector('{BOT}').textContent.trim() !== ''")


def test_captions_become_a_track_of_the_player_and_files(visit, demo, clip):
    window = visit()
    page = window.page
    upload(page, clip)
    page.wait_for_selector(".strip img")
    page.locator("#dense").click()
    page.get_by_role("button", name="VTT").wait_for()
    assert page.locator(".captions li").count() >= 1
    until(page, "document.querySelector('#video video track') !== null")
    cues = page.evaluate(
        "fetch(document.querySelector('#video video track').src).then(answer => answer.text())",
    )
    assert cues.startswith("WEBVTT")
    assert "-->" in cues
    saved = {}
    for kind in ("VTT", "SRT", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind).click()
        saved[kind] = Path(download.value.path()).read_text()
        assert download.value.suggested_filename == f"moving bar.{kind.lower()}"
    entry = json.loads(saved["JSON"])
    assert entry["segments"][0]["start"] == 0
    assert entry["duration"] == pytest.approx(2.0, abs=0.2)
    assert saved["SRT"].startswith("1\n00:00:00,000 --> ")
    page.locator("#new").click()
    until(page, "document.querySelector('#frames .empty') !== null")
    assert list(demo[1].rglob("moving bar.vtt")) == []
    assert window.outside(demo[0]) == []
    assert window.problems == []


def test_a_format_that_browsers_do_not_play_is_read_all_the_same(visit, tmp_path):
    import av
    import numpy as np

    with av.open(str(tmp_path / "old.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * shade, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    page = visit().page
    upload(page, tmp_path / "old.avi")
    page.wait_for_selector(".strip img")
    assert "do not play this format" in page.locator("#frames").inner_text()
    assert page.locator("#video video").count() == 0


def test_settings_change_what_is_seen(visit, clip):
    page = visit().page
    upload(page, clip)
    page.wait_for_selector(".strip img")
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("number input for Frames").fill("3")
    page.get_by_label("number input for Frames").press("Tab")
    until(page, "document.querySelectorAll('.strip figure').length === 3")
    page.get_by_label("number input for Longest answer").fill("1")
    page.get_by_label("number input for Longest answer").press("Tab")
    ask(page, "Describe the video in detail.")
    finished(page)
    assert len(answers(page)[0].split()) <= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, clip, scheme):
    page = visit(color_scheme=scheme).page
    upload(page, clip)
    page.wait_for_selector(".strip img")
    page.locator(".lineage summary").click()
    page.get_by_role("button", name="Advanced").click()
    page.wait_for_timeout(400)
    assert serious(page) == []
