"""A real browser reads from our WebVTT what the captions say, whatever that is."""

import functools
import http.server
import threading

import pytest

from pllava.chat.caption.segment import Segment
from pllava.chat.caption.subtitles import to_vtt

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
TEXTS = [
    "a --> b",
    "<b>bold</b> & <00:00:01.000> more",
    "line\n\n\nline\r\n\r\nWEBVTT\n\nNOTE no",
    "1 < 2 > 0",
    "00:00:09.000 --> 00:00:10.000",
    "{\\an8}top 日本語 🎬",
    "&lt;already&gt; &amp;",
    "STYLE\n::cue{}",
]
READ = "[...document.querySelector('track').track.cues].map(cue => [cue.startTime, cue.endTime, cue.getCueAsHTML().textContent])"


def test_cues(browser, tmp_path):
    segments = [Segment(400_000.0 * number, 400_000.0 * number + 1.5, text) for number, text in enumerate(TEXTS)]
    (tmp_path / "a.vtt").write_text(to_vtt(segments, ["cut off --> here\n\nand more"]), "utf-8")
    (tmp_path / "a.html").write_text("<video><track kind=captions src=a.vtt default></video>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/a.html")
        page.wait_for_function("document.querySelector('track').readyState >= 2")
        cues = page.evaluate(READ)
        page.close()
        server.shutdown()
    assert [(start, end, " ".join(text.split())) for start, end, text in cues] == [
        (segment.start, segment.end, " ".join(segment.text.split())) for segment in segments
    ]
