"""Check the annotations and media of one corpus: `check_corpus(corpus, params, "train")` returns a report, and writes bad rows to a file.

The checks are those of `prepare`, on all rows: weight and max_rows do not apply. `prepare` does not decode the checked media again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pllava.core.files import atomic_write_text, write_json
from pllava.core.hashing import sha256_file
from pllava.core.params import Corpus, Params
from pllava.stages.prepare.assembly import Assembly, Counts
from pllava.stages.prepare.checked_rows import Checks, checked_chunks
from pllava.stages.prepare.instruction import size_of
from pllava.stages.prepare.media_checks import MediaChecks
from pllava.stages.prepare.progress import Progress
from pllava.stages.prepare.run import STATE
from pllava.stages.prepare.text_checks import TextChecker

REPORTS = Path("data/reports")  # tracked by git: reports of the corpora at the time they were added
CHECKED = Path(".state/data")  # report and bad rows of the last check
EXAMPLES = 5  # rows shown for each reason


@dataclass
class CorpusReport:
    """Keys of the JSON report. Rows are annotation rows; tokens are text tokens after the cut to train.max_length."""

    name: str
    split: str
    kind: str
    annotations: str
    annotations_sha256: str
    media: str
    media_sha256: str  # over the usable clips; their order does not matter
    rows: int
    usable: int
    clips: int
    turns: int
    text_tokens: int
    rows_cut_to_max_length: int  # usable rows whose end is cut off
    cut_examples: list[str]  # ids of the first cut rows
    seconds: float  # length of the media files, summed over usable rows
    reasons: dict[str, dict[str, Any]] = field(default_factory=dict)  # code -> {"rows": n, "examples": [text, ...]}
    rejected: str = ""  # file with every bad row

    @property
    def bad(self) -> int:
        return self.rows - self.usable

    @property
    def bad_fraction(self) -> float:
        return self.bad / self.rows if self.rows else 0.0

    def write(self, folder: Path) -> Path:
        """Write <name>-<split>.json and <name>-<split>.md; returns the path of the .md file."""
        path = folder / f"{self.name}-{self.split}.md"
        write_json(path.with_suffix(".json"), vars(self))
        atomic_write_text(path, self.markdown())
        return path

    def markdown(self) -> str:
        """The report as a Markdown page."""
        facts = {
            "annotations": f"`{self.annotations}`, sha256 `{self.annotations_sha256[:16]}`",
            "media": "none" if self.kind == "text" else f"`{self.media}` ({self.kind}), sha256 over all `{self.media_sha256[:16]}`",
            "rows": f"{self.rows:,}, of which usable {self.usable:,}",
            "clips": f"{self.clips:,} distinct, {self.seconds / 3600:.2f} hours over all rows",
            "turns": f"{self.turns:,}, {self.text_tokens:,} text tokens",
            "over-long": f"{self.rows_cut_to_max_length:,} row(s) cut to train.max_length {', '.join(self.cut_examples)}".rstrip(),
        }
        lines = [f"# Corpus {self.name} ({self.split})", "", "| what | found |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in facts.items()]
        if not self.reasons:
            return "\n".join([*lines, "", "Every row can be used."]) + "\n"
        lines += ["", f"{self.bad:,} row(s) cannot be used ({self.bad_fraction:.1%}). All of them: `{self.rejected}`"]
        for code, reason in self.reasons.items():
            lines += ["", f"## {code}: {reason['rows']:,} row(s)", "", *(f"- {text}" for text in reason["examples"])]
            if reason["rows"] > len(reason["examples"]):
                lines.append(f"- ... and {reason['rows'] - len(reason['examples']):,} more")
        return "\n".join(lines) + "\n"


def check_corpus(corpus: Corpus, params: Params, split: str) -> CorpusReport:
    """Check all rows; write the report and the bad rows to .state/data. Raises PllavaError when the annotations are not a list of rows."""
    import pyarrow.compute as pc

    checker = TextChecker(params.model.base, params.model.template, params.train.max_length)
    size, counts, progress, seconds = size_of(corpus), Counts(), Progress(), 0.0
    reasons: dict[str, dict[str, Any]] = {}
    cut: list[str] = []
    CHECKED.mkdir(parents=True, exist_ok=True)
    rejected = CHECKED / f"{corpus.name}-{split}.rejected.jsonl"
    partial = rejected.with_suffix(".partial")
    with MediaChecks(STATE, params.data.workers) as media, Assembly(CHECKED) as assembly, partial.open("w") as file:
        for chunk in checked_chunks(corpus, split, Checks(checker, media, params.data.max_seconds)):
            chunk = assembly.add(split, chunk, counts)
            cut += chunk.rows.filter(chunk.rows["cut"])["id"].to_pylist()[: EXAMPLES - len(cut)]
            seconds += pc.sum(chunk.rows["duration"]).as_py() or 0.0
            for row in chunk.bad.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                for code in row["codes"].split(", "):
                    reason = reasons.setdefault(code, {"rows": 0, "examples": []})
                    reason["rows"] += 1
                    if reason["rows"] <= EXAMPLES:
                        reason["examples"].append(f"row {row['index']}: {row['reasons']}")
            progress.say(f"checking {corpus.name}", counts.checked, size, media.decoded)
        clips, media_sha256 = assembly.clips(split, corpus.name)
    partial.replace(rejected)
    report = CorpusReport(
        name=corpus.name,
        split=split,
        kind=corpus.kind,
        annotations=corpus.annotations.as_posix(),
        annotations_sha256=sha256_file(corpus.annotations),
        media=corpus.media.as_posix(),
        media_sha256=media_sha256,
        rows=size,
        usable=counts.rows,
        clips=clips,
        turns=counts.turns,
        text_tokens=counts.text_tokens,
        rows_cut_to_max_length=counts.cut,
        cut_examples=cut,
        seconds=round(seconds, 2),
        reasons=dict(sorted(reasons.items())),
        rejected=rejected.as_posix(),
    )
    report.write(CHECKED)
    return report
