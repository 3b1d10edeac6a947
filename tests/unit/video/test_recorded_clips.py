"""Decoded frames, the frame rules on real files and their times are those recorded from the published readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pllava.core.errors import PllavaError
from pllava.video.reader import read_video


@pytest.fixture(scope="module")
def recorded(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "video.json").read_text())


@pytest.mark.parametrize("reader", ["auto", "pyav"])  # auto is decord, but for widths it fails at on this processor
def test_every_frame(reference: Path, recorded: dict[str, Any], reader: str):
    for clip in recorded["videos"]:
        video = read_video(reference / clip["file"], clip["vlen"], "middle", reader=reader)
        assert video.indices == list(range(clip["vlen"]))
        assert video.fps == pytest.approx(clip["fps"])
        assert video.times == pytest.approx(np.arange(clip["vlen"]) / clip["fps"], abs=1e-4)
        np.testing.assert_allclose(video.frames.mean((1, 2)), clip["per_frame_rgb_mean"], atol=1e-3)
        stored = clip["stored_frames"]
        np.testing.assert_array_equal(np.concatenate(video.frames[stored["indices"]]), np.asarray(Image.open(reference / stored["file"])))


def test_frame_rules_on_files(reference: Path, recorded: dict[str, Any]):
    for clip in recorded["videos"]:
        path = reference / clip["file"]
        for case in clip["eval_read_video"]:
            bound = case["bound"] or (None, None)
            if case.get("error"):  # a bound past the end, where the published reader fails
                with pytest.raises(PllavaError, match="past the end"):
                    read_video(path, case["num_segments"], "eval", *bound)
            else:
                assert read_video(path, case["num_segments"], "eval", *bound).indices == case["indices"], case
        for case in clip["demo_load_video"]:
            seconds = ", ".join(f"{time:.1f}" for time in read_video(path, case["num_segments"], "demo").times)
            assert f"The video contains {case['n_frames']} frames sampled at {seconds} seconds." == case["msg"]
        for case in clip["train_decord"]:
            if case.get("error") or not case["indices"]:
                with pytest.raises(PllavaError):
                    read_video(path, case["num_frames"], case["sample"], *(case["clip"] or ()))
            else:
                assert read_video(path, case["num_frames"], case["sample"], *(case["clip"] or ())).indices == case["indices"], case


def test_gif(reference: Path, recorded: dict[str, Any]):
    for case in recorded["gif"]["cases"]:
        rule = {"read_gif": "eval", "read_clip_gif": "videoqa"}[case["method"]]
        video = read_video(reference / recorded["gif"]["file"], case["num_segments"], rule)
        assert video.indices == case["nearest_source_frame"]
        np.testing.assert_allclose(video.frames.mean((1, 2)), case["frame_rgb_mean"], atol=1e-3)


def test_frame_folder(reference: Path, recorded: dict[str, Any]):
    for case in recorded["frame_folder"]["cases"]:
        video = read_video(reference / recorded["frame_folder"]["dir"], case["num_segments"], "eval", *(case["bound"] or ()))
        assert video.indices == case["indices"]
        assert video.times == pytest.approx((np.array(video.indices) - 1) / 3)
