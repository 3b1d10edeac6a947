"""The strip shows each sampled frame with its time and counts the visual tokens."""

import numpy as np

from pllava.apps.web.frames import strip, thumbnail
from pllava.video.frames import VideoFrames


def test_strip_shows_every_frame_with_its_time():
    frames = VideoFrames(np.zeros((3, 64, 128, 3), np.uint8), np.array([0.5, 1.5, 2.5]), [6, 18, 30], 12.0, 36, 3.0, "decord")
    shown = strip(frames, (16, 12, 12))
    assert shown.count("<img") == 3
    assert "<figcaption>1.50 s</figcaption>" in shown
    assert "2,304 visual tokens" in shown
    assert "3 frames</b> of 36" in shown
    assert "decord" in shown
    assert 'src="http' not in shown


def test_an_image_is_no_clip_of_one_frame():
    shown = strip(VideoFrames(np.zeros((1, 64, 64, 3), np.uint8), np.array([0.0]), [0], 0.0, 1, 1.0, "pillow"), (16, 12, 12))
    assert "One image" in shown
    assert "1 frames" not in shown
    assert "0.00 s" not in shown


def test_a_frame_is_a_button_where_there_is_a_player():
    frames = VideoFrames(np.zeros((1, 64, 64, 3), np.uint8), np.array([3.25]), [26], 12.0, 96, 8.0, "decord")
    assert 'data-seconds="3.250"><button type="button"' in strip(frames, (16, 12, 12), playable=True)
    assert "<button" not in strip(frames, (16, 12, 12))
    assert "1 frame</b> of 96" in strip(frames, (16, 12, 12))


def test_thumbnail_keeps_the_aspect():
    assert thumbnail(np.zeros((360, 640, 3), np.uint8), 90).size == (160, 90)
    for shape in ((1, 70_000, 3), (70_000, 1, 3)):  # neither a gigabyte nor more than a JPEG can hold
        assert max(thumbnail(np.zeros(shape, np.uint8)).size) < 2000
