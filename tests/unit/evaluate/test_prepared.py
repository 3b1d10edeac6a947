"""The data gate reads the media of every benchmark in its own layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pllava.data.manifest import read_test_rows
from pllava.data.prepare import prepare
from pllava.errors import PllavaError
from pllava.evaluate.benchmark import load_benchmark
from pllava.params import BENCHMARKS, Params
from tests.unit.evaluate.layouts import write_layout

PREPARED = Path("data/prepared")
Project = Callable[..., Params]


def with_benchmark(project: Project, name: str, root: Path) -> Params:
    return project(evaluate={"benchmarks": {name: {"root": str(root), "template": "vicuna"}}})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_sample_of_a_benchmark_is_checked(name: str, project: Project, tmp_path: Path) -> None:
    root = write_layout(name, tmp_path / "root")
    prepare(with_benchmark(project, name, root))
    rows = read_test_rows(PREPARED / "test.parquet")
    assert [Path(row.media) for row in rows] == [sample.media for sample in load_benchmark(name).samples(root)]


def test_a_bad_clip_is_named_with_the_file_that_asks_for_it(project: Project, tmp_path: Path) -> None:
    root = write_layout("msrvtt_qa", tmp_path / "root")
    clip = next(path for path in sorted(root.rglob("*.mp4")))
    clip.write_bytes(b"no video")
    with pytest.raises(PllavaError, match=r"test_q\.json") as caught:
        prepare(with_benchmark(project, "msrvtt_qa", root))
    assert str(clip.name) in str(caught.value)
    assert not PREPARED.exists()
    asked = json.loads(next(root.rglob("test_q.json")).read_text())
    assert clip.stem in {question["video_name"] for question in asked}
