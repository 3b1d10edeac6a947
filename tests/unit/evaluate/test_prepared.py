"""The data gate reads the media of every benchmark in its own layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pllava.artifacts.manifest import read_test_rows
from pllava.benchmarks import io
from pllava.benchmarks.benchmark import load_benchmark
from pllava.chat import load_template
from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.stages.evaluate import metrics
from pllava.stages.evaluate.run import load_questions
from pllava.stages.prepare.run import prepare
from tests.unit.evaluate.layouts import PUBLISHED, write_layout

PREPARED = Path("data/prepared")
Project = Callable[..., Params]


def with_benchmark(project: Project, name: str, root: Path) -> Params:
    return project(evaluate={"benchmarks": {name: {"root": str(root), "template": "vicuna"}}})


@pytest.mark.parametrize("name", PUBLISHED)
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


def test_questions_of_ones_own_benchmark_may_have_names(project: Project, tmp_path: Path) -> None:
    source, root = tmp_path / "own.py", write_layout("recaption", tmp_path / "root")
    source.write_text(
        "from pathlib import Path\nfrom pllava.benchmarks.benchmark import Sample\nfrom pllava.benchmarks.recaption import Recaption\n"
        "class Own(Recaption):\n"
        "    def samples(self, root, limit=None):\n"
        "        clips = sorted(Path(root).rglob('*.mp4'))\n"
        "        return [Sample(name, 'own', clips[0], None, None, 'What?') for name in ('first', 'second', 'third')][:limit]\n"
        "BENCHMARK = Own()\n"
    )
    prepare(params := project(evaluate={"benchmarks": {"own": {"root": str(root), "template": "vicuna", "source": str(source)}}}))
    assert [row.index for row in read_test_rows(PREPARED / "test.parquet")] == [0, 1, 2]
    source.write_text(source.read_text().replace("'third'", "'first'"))
    with pytest.raises(PllavaError, match="two questions have the id 'first'"):
        load_questions(params, "own", None)


def test_a_clip_that_changed_after_the_data_gate_is_another(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What prepare hashed is not read again, but for what has changed since."""
    root, read = write_layout("msrvtt_qa", tmp_path / "root"), []
    hashed = io.media_sha256
    monkeypatch.setattr(io, "media_sha256", lambda media: read.append(media) or hashed(media))
    params = with_benchmark(project, "msrvtt_qa", root)
    prepare(params)
    benchmark = load_benchmark("msrvtt_qa")
    samples = benchmark.samples(root)
    read.clear()

    def data() -> str:
        return metrics.provenance(params, "msrvtt_qa", benchmark, samples, load_template("vicuna"), None, None, None)["data_sha256"]

    before = data()
    assert not read
    clip, other = sorted({sample.media for sample in samples})[:2]
    clip.write_bytes(other.read_bytes())
    assert data() != before
    assert read == [clip]
