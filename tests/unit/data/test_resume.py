"""A killed `prepare` goes on where it was: resumed equals uninterrupted, and what is done is not done again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pllava.artifacts.manifest import PREPARED
from pllava.core.errors import PllavaError
from pllava.core.files import alone
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.stages.prepare import checked_rows as checked
from pllava.stages.prepare import media_checks
from pllava.stages.prepare import run as prepare_module
from pllava.stages.prepare.media import MediaJob, MediaReport, check_media
from pllava.stages.prepare.media_checks import MediaChecks
from pllava.stages.prepare.run import prepare
from pllava.video.readers import Readers

Project = Callable[..., Params]
SMALL = Path("data/raw/small")


def hashes() -> dict[str, str]:
    return {file.name: sha256_file(file) for file in PREPARED.iterdir()}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the media that were decoded."""
    paths: list[str] = []

    def count(job: MediaJob, readers: Readers) -> MediaReport:
        paths.append(job.path)
        return check_media(job, readers)

    monkeypatch.setattr(media_checks, "check_media", count)
    return paths


def test_resumed_equals_uninterrupted(project: Project, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(project())
    whole = hashes()
    for file in Path(".state/prepare").glob("media.ledger*"):
        file.unlink()
    decoded.clear()
    monkeypatch.setattr(checked, "CHUNK", 4)
    made: list[int] = []
    make = checked._make

    def dies_in_the_third(*arguments: Any) -> Any:
        made.append(len(arguments[0]))
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(checked, "_make", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(project())
    assert hashes() == whole, "the old folder stands until the new one is whole"
    assert len(decoded) == 12
    prepare(project())
    assert len(decoded) == 12 + 3 + 2, "each file of the three splits once"
    assert made == [4, 4, 4, 4, 3], "two chunks were kept"
    assert hashes() == whole
    assert not (prepare_module.STATE / "parts").exists()


def test_after_a_kill_the_checks_of_media_are_there(project: Project) -> None:
    """A real kill -9, in the middle of a process."""
    code = "import os, signal\nfrom pllava.stages.prepare import run as p\nfrom pllava.core.params import Params\n"
    code += f"params = Params.model_validate_json({project().model_dump_json()!r})\n"
    code += "p._sum_up = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\np.prepare(params)"
    environment = {**os.environ, "PYTHONPATH": str(Path(checked.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == -signal.SIGKILL
    with MediaChecks(prepare_module.STATE, 1) as media:
        media.reports({f"{SMALL}/videos/train/{number}.mp4": [(None, None)] for number in range(12)})
        assert media.decoded == 0
    prepare(project())
    first = hashes()
    assert sorted(file.name for file in Path("data").iterdir()) == ["prepared", "raw"], "what the killed run left is gone"
    prepare(project())
    assert hashes() == first


def test_after_a_kill_nobody_reads_on(project: Project, slow_gif: Path) -> None:
    """Two clips are being decoded when the command is killed."""
    import psutil

    for number in (0, 1):
        (SMALL / f"videos/train/{number}.mp4").write_bytes(slow_gif.read_bytes() + b"\0" * number)
    code = "from pllava.stages.prepare.run import prepare\nfrom pllava.core.params import Params\n"
    code += f"prepare(Params.model_validate_json({project(data={'workers': 2}).model_dump_json()!r}))\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(checked.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    reading: list[psutil.Process] = []
    while len(reading) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        reading = [child for child in psutil.Process(process.pid).children(recursive=True) if _reads(child, slow_gif.stat().st_size)]
        time.sleep(0.02)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(reading, timeout=10)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def _reads(process: Any, size: int) -> bool:
    import psutil

    try:
        return any(size <= Path(file.path).stat().st_size <= size + 1 for file in process.open_files())
    except (psutil.Error, OSError):
        return False


def test_a_reader_that_died_is_no_lasting_verdict(project: Project, slow_gif: Path, signal_readers: Any) -> None:
    shutil.copy(slow_gif, SMALL / "videos/train/0.mp4")
    size = slow_gif.stat().st_size
    with MediaChecks(prepare_module.STATE, 2) as media:
        paths = {f"{SMALL}/videos/train/{number}.mp4": [(None, None)] for number in range(4)}
        with signal_readers(lambda file: file.is_file() and file.stat().st_size == size, signal.SIGKILL):
            reports = media.reports(paths)
        assert [bool(report.problem) for report in reports.values()].count(True) == 1
        assert "the decoder died" in reports[f"{SMALL}/videos/train/0.mp4"].problem[1]  # type: ignore[index]
        shutil.copystat(slow_gif, SMALL / "videos/train/0.mp4")
        media.decoded = 0
        media._readers.time_limit = 0.3
        assert "not read within" in media.reports(paths)[f"{SMALL}/videos/train/0.mp4"].problem[1]  # type: ignore[index]
        assert media.decoded == 1


def test_two_at_once_do_not_take_each_others_chunks(project: Project) -> None:
    with alone(prepare_module.STATE / "lock", "me"), pytest.raises(PllavaError, match="another pllava prepare is at work"):
        prepare(project())
    prepare(project())


def test_a_changed_file_is_checked_again(project: Project, decoded: list[str]) -> None:
    prepare(project())
    decoded.clear()
    prepare(project())
    assert decoded == []
    (SMALL / "videos/train/7.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(PllavaError, match=r"media unreadable: 1"):
        prepare(project())
    assert decoded == [f"{SMALL}/videos/train/7.mp4"]


def test_an_empty_file_and_a_long_clip_have_codes_of_their_own(project: Project) -> None:
    (SMALL / "videos/train/0.mp4").write_bytes(b"")
    with pytest.raises(PllavaError, match=r"media empty: 1"):
        prepare(project())
    with pytest.raises(PllavaError, match=r"media over-long: 11"):
        prepare(project(data={"max_seconds": 1.0}))


def test_a_name_no_file_can_have_and_a_link_to_nothing_are_problems_of_their_own_rows(tmp_path: Path) -> None:
    (frames := tmp_path / "frames").mkdir()
    (frames / "00001.jpg").symlink_to("nowhere.jpg")
    paths = [str(tmp_path / ("x" * 300)), f"{tmp_path}/a\0b.mp4", str(frames)]
    with MediaChecks(tmp_path / "state", 1) as media:
        reports = media.reports({path: [(None, None)] for path in paths})
    assert [reports[path].problem[0] for path in paths] == ["media missing", "media missing", "media unreadable"]  # type: ignore[index]


def test_report_counts_what_was_cut(project: Project) -> None:
    rows = json.loads((SMALL / "train.json").read_text())
    rows[0]["QA"] = [{"q": "?", "a": "word " * 400}]
    (SMALL / "train.json").write_text(json.dumps(rows))
    prepare(project())
    report = json.loads((PREPARED / "report.json").read_text())["splits"]["train"]["corpora"]["small"]
    assert (report["rows"], report["rows_cut_to_max_length"]) == (12, 1)
