"""The annotation files of a folder of clips: `Notes(folder).add("pan.mp4", "What is in it?", "Eggs.")`.

A question with an answer goes to annotations.json, in the form of VideoChat2-IT; a question with options goes to test.jsonl, a test set.
`pllava data add` takes both files. They are read again before every change, and rows of other programs in them are kept.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from pllava.benchmarks.io import SUFFIXES
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text, read_json

TRAIN, TEST = "annotations.json", "test.jsonl"
MOST_OPTIONS = 7  # as MVBench has letters
LONGEST = 2000  # characters of a text


class Notes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def clips(self) -> dict[str, int]:
        """{clip, relative to the folder: number of its questions}, sorted. Raises PllavaError when a file can't be read."""
        files = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        names = [path.relative_to(self.folder).as_posix() for path in files]
        counts = dict.fromkeys(names, 0)
        for row in self._train():
            if row["video"] in counts:
                counts[row["video"]] += len(row["QA"])
        for row in self._test():
            if row["video"] in counts:
                counts[row["video"]] += 1
        return counts

    def of(self, clip: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(turns of annotations.json with `q` and `a`, rows of test.jsonl with `question`, `options` and `answer`) of the clip."""
        turns = [turn for row in self._train() if row["video"] == clip for turn in row["QA"]]
        return turns, [row for row in self._test() if row["video"] == clip]

    def add(self, clip: str, question: str, answer: str, options: list[str] | None = None) -> None:
        """Add a question. Raises PllavaError, which says what to change, and then nothing is written."""
        question, answer = question.strip(), answer.strip()
        options = [option.strip() for option in options or () if option.strip()]
        for text in (question, answer, *options):
            if len(text) > LONGEST:
                raise PllavaError(f"a text has {len(text)} characters, at most {LONGEST} are taken")
        if not question or not answer:
            raise PllavaError("a question and its answer are needed")
        if options and not (2 <= len(set(options)) == len(options) <= MOST_OPTIONS):
            raise PllavaError(f"2 to {MOST_OPTIONS} different options are needed, one a line, found {len(options)}")
        if options and answer not in options:
            raise PllavaError(f"the answer {answer!r} is none of the options; write it as one of them")
        with self._lock:
            turns, tests = self.of(clip)
            if (turns and options) or (tests and not options):
                kind, file = ("test", TRAIN) if options else ("training", TEST)
                raise PllavaError(f"{clip} is in {file} already, and a clip is in one of training and test; no {kind} question is taken")
            if options:
                self._write_test([*self._test(), {"video": clip, "question": question, "options": options, "answer": answer}])
                return
            rows = self._train()
            row = next((row for row in rows if row["video"] == clip and not {"start", "end"} & row.keys()), None)
            if row is None:
                row = {"video": clip, "QA": []}
                rows.append(row)
            row["QA"].append({"i": "", "q": question, "a": answer})
            self._write_train(rows)

    def remove(self, clip: str, question: str) -> None:
        """Remove the clip's questions of these words."""
        with self._lock:
            rows = self._train()
            for row in rows:
                if row["video"] == clip:
                    row["QA"] = [turn for turn in row["QA"] if turn.get("q") != question]
            tests = self._test()
            kept = [row for row in tests if row["video"] != clip or row["question"] != question]
            if len(kept) != len(tests):
                self._write_test(kept)
            else:
                self._write_train([row for row in rows if row["QA"] or row["video"] != clip])

    def _train(self) -> list[dict[str, Any]]:
        path = self.folder / TRAIN
        rows = read_json(path) if path.exists() else []
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and isinstance(row.get("video"), str) and isinstance(row.get("QA"), list) for row in rows
        ):
            raise PllavaError(f"{path} is no list of rows with video and QA. Move it away, or mend it")
        return rows

    def _test(self) -> list[dict[str, Any]]:
        path = self.folder / TEST
        try:
            rows = [json.loads(line) for line in path.read_text("utf-8-sig").splitlines() if line.strip()] if path.exists() else []
        except (ValueError, RecursionError) as error:
            raise PllavaError(f"{path} can't be read: {error}. Move it away, or mend it") from None
        if not all(isinstance(row, dict) and {"video", "question", "answer"} <= row.keys() for row in rows):
            raise PllavaError(f"{path} has a line without video, question or answer. Move it away, or mend it")
        return rows

    def _write_train(self, rows: list[dict[str, Any]]) -> None:
        atomic_write_text(self.folder / TRAIN, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")

    def _write_test(self, rows: list[dict[str, Any]]) -> None:
        atomic_write_text(self.folder / TEST, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
