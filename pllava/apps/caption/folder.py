"""Any number of videos to one file of captions: `caption_all(["clips/"], "captions.jsonl", job)`.

Memory does not grow with the number of videos. After a kill the same call continues, and writes the same bytes as an uninterrupted run.
Captions of an earlier run with the same settings are kept; videos that failed are tried again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pllava.apps.caption.inputs import expand
from pllava.apps.caption.job import Job
from pllava.apps.caption.output import format_of, require_writable, write_rows
from pllava.apps.caption.store import Row, Store
from pllava.chat.caption.subtitles import write_captions
from pllava.core.errors import PllavaError
from pllava.core.files import alone
from pllava.core.progress import WorkProgress

Tell = Callable[[str, float], None]
Run = Callable[[Job, Iterable[list[str]], Tell], Iterator[list[tuple[str, Row]]]]


@dataclass(frozen=True)
class Summary:
    """Numbers of videos. out: the file of captions; failures: the file of videos that could not be captioned."""

    total: int
    captioned: int
    failed: int
    kept: int  # captioned by an earlier run
    out: Path
    failures: Path
    far: int = 0  # unlike the clips that the model was trained on

    def __str__(self) -> str:
        kept = f" ({self.kept} of them by an earlier run)" if self.kept else ""
        failed = f"; {self.failed} failed, with reasons in {self.failures}" if self.failed else ""
        far = f"; {self.far} are unlike the clips this model was trained on, and their captions likely wrong" if self.far else ""
        return f"{self.captioned} of {self.total} videos captioned{kept}: {self.out}{failed}{far}"


def caption_all(
    sources: Iterable[str | Path],
    out: str | Path,
    job: Job,
    *,
    format: str | None = None,
    subtitles: str | Path | None = None,
    fresh: bool = False,
    run: Run | None = None,
    console: Console | None = None,
) -> Summary:
    """Caption files, folders, globs and list files into `out`, in their order, and list failures in a file beside it.

    format: "jsonl", "parquet" or "csv"; None: by the suffix of `out`. subtitles: a folder for one subtitle file a video (dense only).
    fresh: forget earlier runs. run: captions the batches; None: `caption_batches` in this process.
    Raises PllavaError when there is nothing to caption, or `out` cannot be written.
    """
    out = Path(out)
    kind = format_of(out, format)
    if subtitles and not job.dense:
        raise PllavaError("subtitles are made of dense captions: add --dense")
    for target in [out, *([Path(subtitles) / ".vtt"] if subtitles else ())]:
        require_writable(target)
    if run is None:
        from pllava.apps.caption.batch import caption_batches

        run = caption_batches
    failures = out.with_name(f"{out.name.removesuffix('.jsonl')}.failures.jsonl")
    with _progress(out, job, fresh) as store:
        total = store.set_inputs(expand(sources))
        if not total:
            raise PllavaError(f"no videos in {', '.join(map(str, sources))}")
        size = 1 if job.dense else job.batch_size  # videos whose rows are stored together
        kept = total - sum(len(batch) for batch in store.pending(size))
        console = console or Console(stderr=True)
        if store.dropped:
            console.print(f"{out}: made with other settings before; captioned anew", markup=False, soft_wrap=True)
        elif kept and kept < total:
            console.print(f"{out}: {kept} of {total} videos are captioned already", markup=False, soft_wrap=True)
        with WorkProgress("captions", "videos", total, console, kept) as progress:
            if kept < total:
                for rows in run(job, store.pending(size), progress.within):
                    store.add(rows)
                    progress.add(len(rows), sum("error" in row for _, row in rows))
        captioned = write_rows(out, (row for _, row in store.rows() if "error" not in row), kind, bool(job.dense))
        failed = _write_failures(failures, store)
        far = sum(row.get("far", False) for _, row in store.rows())
        if subtitles:
            _write_subtitles(Path(subtitles), store)
    return Summary(total, captioned, failed, min(kept, captioned), out, failures, far)


@contextmanager
def _progress(out: Path, job: Job, fresh: bool) -> Iterator[Store]:
    """The store of `out`, for this process alone. Raises PllavaError when another process writes to `out`."""
    lock = out.with_name(f".{out.name}.lock")
    with alone(lock, f"{out}: another process is writing these captions"):
        try:
            with Store(out.with_name(f".{out.name}.progress"), job.sha256(), fresh) as store:
                yield store
        finally:
            lock.unlink(missing_ok=True)


def _write_failures(path: Path, store: Store) -> int:
    """Write a row for each failed video; without failures remove the file. Returns the number of failures."""
    if not any("error" in row for _, row in store.rows()):
        path.unlink(missing_ok=True)
        return 0
    return write_rows(path, (row for _, row in store.rows() if "error" in row), "jsonl", False)


def _write_subtitles(folder: Path, store: Store) -> None:
    """One .vtt file a video, at the same path below `folder` as the video has below the folder that all videos share."""
    root: str | None = None
    for path, _ in store.rows():
        parent = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120  links are not followed
        root = parent if root is None else os.path.commonpath([root, parent])
    for path, row in store.rows():
        if "error" not in row:
            target = folder / os.path.relpath(path, root)
            write_captions(target.with_name(f"{target.name}.vtt"), row, "vtt")
