"""The points of a sweep: every combination once, each valid as a whole, or all that is wrong is said."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gallery_results import result, write
from pydantic import ValidationError

from pllava.apps.gallery.app import create_app
from pllava.apps.gallery.current import Current
from pllava.artifacts import gallery_links as links
from pllava.core.errors import PllavaError
from pllava.core.files import write_json
from pllava.core.params import load_params
from pllava.registry.result_sources import SOURCES
from pllava.trials.points import Grid, points
from pllava.trials.sweep_report import best, chart, sources, table

PARAMS = load_params(Path(__file__).parents[3] / "recipes/tiny.yaml")


def test_a_grid_is_every_combination_and_equal_points_are_one():
    grid = Grid(pooling_shape=[(8, 3, 3), (4, 3, 3)], lora_rank=[8, 64], other={"train.steps": [10]})
    found = points(PARAMS, grid, [{"train.lora.r": 8, "model.pooling_shape": [4, 3, 3], "train.steps": 10}, {"train.steps": 20}])
    assert len(found) == 5
    assert len({point.key for point in found}) == 5
    assert found[0].changes == {"model": {"pooling_shape": [8, 3, 3]}, "train": {"lora": {"r": 8}, "steps": 10}}


def test_a_point_is_named_by_what_differs():
    found = points(PARAMS, Grid(pooling_shape=[(8, 3, 3), (4, 3, 3)], other={"train.steps": [10]}))
    assert [point.title for point in found] == ["pooling_shape [8, 3, 3]", "pooling_shape [4, 3, 3]"]
    assert [point.title for point in points(PARAMS, Grid())] == ["params.yaml as it stands"]


def test_all_that_is_wrong_is_said_before_anything_runs():
    with pytest.raises(PllavaError) as refused:
        points(PARAMS, Grid(num_frames=[8, 2], other={"train.stepz": [1]}))
    assert "stepz" in str(refused.value)
    assert "pooling_shape[0] = 8 is more than num_frames = 2" in str(refused.value)
    with pytest.raises(PllavaError, match="given twice"):
        points(PARAMS, Grid(lora_rank=[8], other={"train.lora.r": [4]}))
    with pytest.raises(ValidationError, match="lora_rank"):
        Grid(lora_rank=[0])


def row(shape, alpha, value):
    score = {"value": value, "low": value - 0.05, "high": value + 0.05}
    settings = {"model.pooling_shape": shape}
    return {
        "key": "".join(map(str, shape)),
        "title": str(shape),
        "settings": settings,
        "alpha": alpha,
        "trained_alpha": 32.0,
        "pooling_shape": shape,
        "average": score,
        "n": 9,
    }


def test_the_report_ranks_and_draws(tmp_path):
    rows = [row([4, 3, 3], 32.0, 0.8), row([8, 3, 3], 32.0, 0.7), row([8, 3, 3], 4.0, 0.8), row([2, 3, 3], 32.0, 0.8)]
    assert best(rows) == rows[3], "of equals the one with fewer tokens"
    lines = table(rows, "mvbench").splitlines()
    assert lines[2] == "| [4, 3, 3] | 32 | 80.0 (75.0-85.0) | 9 |"
    assert lines[-1].startswith("| [8, 3, 3] | 32 | 70.0")
    assert "](" not in table(rows, "mvbench", tmp_path), "nothing on disk, nothing to link to"
    assert chart(rows, "mvbench", tmp_path / "deep/chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_scores_lead_to_their_questions_in_the_gallery(tmp_path):
    """What the links ask for is what `pllava gallery FOLDER` shows."""
    rows = [row([4, 3, 3], 32.0, 0.5), row([8, 3, 3], 32.0, 0.75), row([8, 3, 3], 4.0, 0.25)]
    for number, (name, folder) in enumerate(sources(rows).items()):
        assert name == f"{rows[number]['title']}, alpha {rows[number]['alpha']:g}"
        if number != 2:  # one of them was removed
            write(tmp_path / folder, [result(n, "adapted", n < 2 + number) for n in range(4)])
    write_json(tmp_path / SOURCES, sources(rows))
    results = Current([str(tmp_path)], home=tmp_path / "index")
    client = TestClient(create_app(results))
    lines = table(rows, "mvbench", tmp_path).splitlines()
    assert f"`pllava gallery {tmp_path}`" in lines[-1]
    best, other, removed = lines[2:5]
    assert "](" not in removed
    assert "compare" not in best
    for line, right in ((best, 3), (other, 2)):
        address = re.search(r"\]\((http[^)]+)\)", line)[1]
        page = client.get(address.removeprefix(links.ADDRESS)).text
        assert page.count('<span class="verdict right">') == right
        assert page.count('<span class="verdict') == 4
    against = re.search(r"\[compare\]\((http[^)]+)\)", other)[1]
    page = client.get(against.removeprefix(links.ADDRESS))
    assert page.status_code == 200
    assert "−1" in page.text
