"""Captions of many videos by several workers, on this machine or on many: `python -m flows.caption videos/ --runner ray`.

The same work as `pllava caption`, and the same bytes; Prefect hands batches of videos out to threads, processes or a Ray cluster.
Machines of a cluster must see the videos and the model under the same paths.
"""

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from flows import ROOT, server
from flows.failure import tell
from flows.runner import Runner, task_runner
from flows.server import served
from pllava.apps.caption.job import Dense, Job, make_job
from pllava.apps.caption.store import Row
from pllava.chat.caption.clips import QUESTION
from pllava.core.command import end_all
from pllava.core.errors import PllavaError
from pllava.core.params import load_params

Rows = list[tuple[str, Row]]
BATCHES_A_TASK = 4
SHOWN_FAILURES = 100


class CaptionForm(BaseModel):
    """What the Prefect UI asks for."""

    model_config = ConfigDict(extra="forbid")
    paths: list[str] = Field(min_length=1, description="videos, folders, globs, or @LIST with a source a line")
    output: str = Field("captions.jsonl", description=".jsonl, .parquet or .csv; failures go to a file beside it")
    model: str | None = Field(None, description="models:/NAME@champion, an adapter folder, a base folder or a hub id; empty: the champion")
    question: str = Field(QUESTION, min_length=1, description="asked about each video, or each scene")
    max_new_tokens: int = Field(100, ge=1, description="longest caption, in tokens")
    dense: Dense | None = Field(None, description="a caption for each scene, with its times")
    subtitles: str | None = Field(None, description="dense: a folder for a .vtt file a video")
    batch_size: int = Field(8, ge=1, description="videos, or scenes, captioned at once")
    limits: dict[str, float] = Field(default_factory=dict, description="max_bytes, max_pixels, max_frames, max_seconds, max_decoded_bytes")
    runner: Runner = Field("thread", description="threads or processes of this machine, or a Ray cluster")
    workers: int = Field(2, ge=1, description="tasks at once, on this machine")
    ray_address: str | None = Field(None, description="ray://HOST:10001 of a cluster; empty: Ray is started on this machine")


@served
@flow(name="caption", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def caption(form: CaptionForm) -> Any:
    """Caption videos. A run that was stopped goes on where it was.

    Args:
        form: which videos, by which model, on which machines.
    """
    os.chdir(ROOT)
    return _with_runner(form)


def _with_runner(form: CaptionForm) -> Any:
    try:
        settings = form.model_dump(include={"question", "max_new_tokens", "dense", "batch_size", "limits"})
        job, _ = make_job(load_params(), form.model, **settings)
        runner = task_runner(form.runner, form.workers, form.ray_address)
    except PllavaError as error:
        return Failed(message=str(error))
    work = captions.with_options(task_runner=runner)
    state = work(job.model_dump(), form.paths, form.output, form.subtitles, form.workers, return_state=True)
    return Completed(message=state.message) if state.is_completed() else Failed(message=state.message)


@flow(name="captions", persist_result=False)
def captions(job: dict[str, Any], paths: list[str], output: str, subtitles: str | None, workers: int) -> Any:
    """Submit the batches as tasks to the flow's runner. This process records the progress and writes the files."""
    from pllava.apps.caption.folder import caption_all

    def run(job: Job, batches: Iterable[list[str]], tell: Callable[[str, float], None]) -> Iterator[Rows]:
        waiting: deque[PrefectFuture[list[Rows]]] = deque()
        size = 1 if job.dense else BATCHES_A_TASK
        batches = iter(batches)
        while part := list(islice(batches, size)):
            waiting.append(caption_part.submit(job.model_dump(), part))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    try:
        done = caption_all(paths, output, Job(**job), subtitles=subtitles, run=run)
    except PllavaError as error:
        return Failed(message=str(error))
    except BaseException:  # cancelled: Prefect leaves this flow only after its captioning processes have ended
        end_all()
        raise
    _publish(done.failures, str(done), done.failed)
    return Completed(message=str(done)) if done.captioned or not done.failed else Failed(message=str(done))


@task(name="captions", retries=1, cache_policy=NO_CACHE, persist_result=False)
def caption_part(job: dict[str, Any], batches: list[list[str]]) -> list[Rows]:
    """Caption a few batches. Returns one list of rows for each batch. Each worker loads the model once."""
    from pllava.apps.caption.batch import caption_batches

    os.chdir(ROOT)
    return list(caption_batches(Job(**job), batches))


def _publish(failures: Path, summary: str, failed: int) -> None:
    """Publish the summary and the first failures as an artifact of the flow run."""
    lines = failures.read_text().splitlines()[:SHOWN_FAILURES] if failed else []
    more = f"\n\nand {failed - len(lines)} more" if failed > len(lines) else ""
    shown = "\n".join(["```", *lines, "```"]) if lines else ""
    create_markdown_artifact(f"{summary}\n\n{shown}{more}\n", key="captions", description=summary[:200])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--out", default="captions.jsonl")
    parser.add_argument("--model")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-new-tokens", type=int, default=100)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--runner", choices=("thread", "process", "ray"), default="thread")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray-address")
    options = vars(parser.parse_args())
    form = CaptionForm(output=options.pop("out"), dense=Dense() if options.pop("dense") else None, **options)
    with server.api():
        state = caption(form, return_state=True)
    print(state.message, file=sys.stderr)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
