"""MSVD-QA, MSRVTT-QA, ActivityNet-QA and TGIF-QA: open questions in `<set>/test_q.json`, `test_a.json`, and the videos beside them.

Entry i of one file belongs to entry i of the other; where both carry a question_id, the two must agree.
Scored by a judge: right or wrong, and 0 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.benchmarks.benchmark import Benchmark, Sample, Score
from pllava.benchmarks.io import MediaIndex, read_entries
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.benchmarks.judge import Judge


class VideoQA(Benchmark):
    """`folder`: beginning of the set's folder name, for a root that holds several sets."""

    judged = True
    frame_rule = "videoqa"  # "eval" for video files; GIF frames are counted as the published VideoQA script does

    def __init__(self, name: str, title: str, folder: str, video_prefix: str = "", first_suffix: str = ".mp4"):
        self.name = name
        self.title = title  # type: ignore[misc]
        self.folder = folder
        self.video_prefix = video_prefix
        self.first_suffix = first_suffix

    def annotations(self, root: str | Path) -> list[Path]:
        home = self._home(Path(root))
        return [home / "test_a.json", home / "test_q.json"]

    def samples(self, root: str | Path, limit: int | None = None) -> list[Sample]:
        home = self._home(Path(root))
        questions = read_entries(home / "test_q.json", ("video_name", "question"))
        answers = read_entries(home / "test_a.json", ("answer",))
        if len(questions) != len(answers):
            raise PllavaError(
                f"{home}: test_q.json has {len(questions)} entries, test_a.json {len(answers)}; they belong together entry by entry. "
                "Fetch both files of one release"
            )
        media = MediaIndex(home, self.first_suffix)
        samples = []
        for index, (question, answer) in enumerate(zip(questions[:limit], answers[:limit], strict=True)):
            if "question_id" in question and "question_id" in answer and question["question_id"] != answer["question_id"]:
                raise PllavaError(
                    f"{home}: entry {index} is question {question['question_id']!r} in test_q.json, {answer['question_id']!r} in test_a.json. "
                    "Fetch both files of one release"
                )
            clip = media[f"{self.video_prefix}{question['video_name']}"]
            sample = Sample(
                f"{self.name}/{index:05d}", self.title, clip, None, None, str(question["question"]), answer=str(answer["answer"])
            )
            samples.append(sample)
        return samples

    def score(self, row: Mapping[str, Any], judge: Judge) -> dict[str, Score]:
        from pllava.benchmarks.judge.rubric import ANSWER

        return {self.title: judge.score(ANSWER, question=row["question"], answer=row["answer"], prediction=row["prediction"])}

    def _home(self, root: Path) -> Path:
        """The set's folder: `root` itself, or the one below it that bears its name."""
        if (root / "test_q.json").is_file():
            return root
        named = [folder for folder in sorted(root.glob("*/")) if folder.name.lower().startswith(self.folder) and folder.is_dir()]
        return named[0] if named else root


# 13,157 questions about short clips of web video
MSVD_QA = VideoQA("msvd_qa", "MSVD-QA", folder="msvd", first_suffix=".avi")
# 72,821 questions about web video of 10 to 30 s
MSRVTT_QA = VideoQA("msrvtt_qa", "MSRVTT-QA", folder="msrvtt")
# 8,000 questions about 800 untrimmed clips of up to some minutes; a file's name is `v_` and the annotation's video_name
ACTIVITYNET_QA = VideoQA("activitynet_qa", "ActivityNet-QA", folder="activitynet", video_prefix="v_")
# open frame questions about animated GIFs
TGIF_QA = VideoQA("tgif_qa", "TGIF-QA", folder="tgif", first_suffix=".gif")
