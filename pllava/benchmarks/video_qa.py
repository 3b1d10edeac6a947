"""MSVD-QA, MSRVTT-QA, ActivityNet-QA and TGIF-QA: open questions, which a judge scores as right or wrong, and 0 to 5.

Layout: `<set>/test_q.json`, `<set>/test_a.json`, and the videos in any folder under `<set>`. Entry i of one file belongs to entry i of the
other. If both have a question_id, the two must be equal.
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
    """folder: the beginning of the set's folder name, in lower case, for a root with several sets.

    video_prefix: stands before the annotation's video_name in the name of a video. first_suffix: the preferred suffix of videos.
    """

    judged = True
    frame_rule = "videoqa"  # as "eval" for video files; counts GIF frames as the published VideoQA script does

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
                    f"{home}: entry {index} is question {question['question_id']!r} in test_q.json, "
                    f"{answer['question_id']!r} in test_a.json. Fetch both files of one release"
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
        """The set's folder: `root` if it has a test_q.json, else the first folder in `root` with the set's name, else `root`."""
        if (root / "test_q.json").is_file():
            return root
        named = [folder for folder in sorted(root.glob("*/")) if folder.name.lower().startswith(self.folder) and folder.is_dir()]
        return named[0] if named else root


# 13,157 questions about short clips of web video
MSVD_QA = VideoQA("msvd_qa", "MSVD-QA", folder="msvd", first_suffix=".avi")
# 72,821 questions about web video of 10 to 30 s
MSRVTT_QA = VideoQA("msrvtt_qa", "MSRVTT-QA", folder="msrvtt")
# 8,000 questions about 800 untrimmed clips of up to some minutes; a file is named `v_` + video_name
ACTIVITYNET_QA = VideoQA("activitynet_qa", "ActivityNet-QA", folder="activitynet", video_prefix="v_")
# open frame questions about animated GIFs
TGIF_QA = VideoQA("tgif_qa", "TGIF-QA", folder="tgif", first_suffix=".gif")
