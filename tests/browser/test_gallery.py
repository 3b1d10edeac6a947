"""The gallery in a real browser: filters, comparison, deep links, a phone, hostile words, and what axe-core says."""

import re

import pytest
from gallery_results import result, write
from window import serious, until

from pllava.apps.gallery.current import Current

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
WIDTHS = pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])


@WIDTHS
def test_a_filter_narrows_the_list_while_one_types(visitor, gallery, width, height):
    window = visitor(width, height)
    page = window.page
    page.goto(gallery)
    assert page.locator(".questions tbody tr").count() == 50
    until(page, "document.querySelector('.questions .thumbnail').naturalHeight === 120")
    page.get_by_label("Text").fill("option 55")
    until(page, "document.querySelectorAll('.questions tbody tr').length === 1")
    assert page.url.endswith("?text=option+55")
    page.get_by_label("Text").fill("")
    page.get_by_label("Model").select_option("new: adapted")
    page.get_by_label("Verdict").select_option("right")
    until(page, "document.querySelector('.count').textContent.startsWith('60 questions')")
    page.get_by_role("link", name="Next", exact=True).click()
    until(page, "document.querySelectorAll('.questions tbody tr').length === 10")
    assert not window.scrolls_sideways()
    assert window.outside(gallery) == []
    assert window.problems == []


def test_no_frame_of_a_phone_scrolls_sideways_while_one_types_and_turns_the_page(visitor, gallery):
    """On a slow processor, with a stylesheet that comes late."""
    window = visitor(390, 844)
    page = window.page
    page.add_init_script(
        "window.frames_seen = 0; window.wide_frames = 0; const look = () => { frames_seen++;"
        "if (document.documentElement.scrollWidth > innerWidth) wide_frames++; requestAnimationFrame(look) }; requestAnimationFrame(look)"
    )
    page.route("**/gallery.css", lambda route: (page.wait_for_timeout(700), route.continue_()))
    window.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    page.goto(gallery)
    page.get_by_label("Text").press_sequentially("number", delay=50)
    until(page, "document.querySelector('.count').textContent.startsWith('119 questions')")
    assert page.evaluate("frames_seen") > 10
    assert page.evaluate("wide_frames") == 0
    page.get_by_role("link", name="Next", exact=True).click(no_wait_after=True)
    page.wait_for_url("**page=2**", wait_until="commit")
    assert not window.scrolls_sideways()
    until(page, "document.readyState === 'complete'")
    assert page.evaluate("wide_frames") == 0


@WIDTHS
def test_two_results_are_compared_and_only_differences_listed(visitor, gallery, width, height):
    window = visitor(width, height)
    page = window.page
    page.goto(f"{gallery}/compare")
    total = page.locator("tfoot tr").first.inner_text()
    assert re.sub(r"\s+", " ", total) == "all 120 50.0 % 50.0 % +30 −30"
    for table in page.locator(".scroll:has(.numbers)").all():  # gained and lost are in sight on a phone, too
        assert table.evaluate("table => table.scrollWidth <= table.clientWidth")
    assert page.locator(".count").inner_text().startswith("60 questions")
    page.locator("select[name=side]").select_option("gained")
    until(page, "document.querySelector('.count').textContent.startsWith('30 questions')")
    first = page.locator(".questions tbody tr").first.inner_text()
    assert "Question number 60?" in first
    assert first.index("wrong") < first.index("right", first.index("wrong"))
    page.locator("select[name=against]").select_option("new: adapted")
    until(page, "document.querySelector('.questions tbody tr').textContent.includes('Question number 0?')")
    assert not window.scrolls_sideways()
    assert window.outside(gallery) == []
    assert window.problems == []


@WIDTHS
def test_a_deep_link_plays_the_part_that_was_asked_about(visitor, gallery, width, height):
    window = visitor(width, height)
    page = window.page
    page.goto(f"{gallery}/sample/mvbench/moves/0042")
    assert page.locator("h1").inner_text() == "Question number 42?"
    until(page, "document.querySelector('video').readyState >= 2")
    assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(1.0, abs=0.2)
    page.get_by_role("button", name="Play this part").click()
    at_the_end = "Math.abs(document.querySelector('video').currentTime - document.querySelector('video').dataset.end) < 0.2"
    until(page, f"document.querySelector('video').paused && {at_the_end}")  # 3 of 4 seconds, however late the browser noticed
    until(page, "[...document.querySelectorAll('.strip img')].some(image => image.naturalWidth > 0)")
    assert page.locator(".options .truth").inner_text().startswith("(A) left")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/sample/mvbench/moves/0043")
    assert not window.scrolls_sideways()
    assert window.outside(gallery) == []
    assert window.problems == []


def test_results_that_change_are_found_while_one_filters(visitor, open_gallery, tmp_path):
    folder = write(tmp_path / "r", [result(n, "adapted", True) for n in range(3)])
    address = open_gallery(Current([str(folder)], home=tmp_path / "index"))
    window = visitor()
    page = window.page
    page.goto(address)
    assert page.locator("#facts").inner_text().startswith("3 questions")
    write(folder, [result(n, "adapted", True) for n in range(5)])
    page.wait_for_timeout(1100)  # the disk is looked at once a second
    page.get_by_label("Text").fill("number")
    until(page, "document.querySelector('#facts').textContent.startsWith('5 questions')")
    assert page.locator(".questions tbody tr").count() == 5
    (folder / "mvbench/results.jsonl").unlink()
    page.wait_for_timeout(1100)
    page.get_by_label("Text").fill("question")
    page.get_by_text("You see those from before").wait_for()
    assert window.problems == []


def test_the_list_is_walked_with_the_keyboard(visitor, gallery):
    page = visitor().page
    page.goto(gallery)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/sample/mvbench/moves/0001")
    page.goto(gallery)
    page.keyboard.press("/")
    page.keyboard.type("option 9")
    until(page, "document.querySelectorAll('.questions tbody tr').length === 11")


def test_what_a_model_wrote_runs_nowhere(visitor, gallery):
    window = visitor()
    page = window.page
    for address in (
        "/?text=onerror",
        "/sample/mvbench/moves/0007",
        "/compare?side=all",
        "/?text=%3Cscript%3Edocument.title=3%3C/script%3E",
    ):
        page.goto(gallery + address)
        page.wait_for_timeout(200)
        assert page.locator("img[src='x']").count() == 0
        assert "gallery" in page.title()
    assert window.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visitor, gallery, scheme):
    page = visitor(color_scheme=scheme).page
    for address in ("/", "/compare", "/sample/mvbench/moves/0042", "/?text=nothing-like-it", "/sample/x/y"):
        page.goto(gallery + address)
        page.wait_for_timeout(300)
        assert serious(page) == [], address
