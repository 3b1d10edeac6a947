"""Captions batches of videos. Other processes read the next videos while the model writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from pllava.apps.caption.job import Job
from pllava.apps.caption.output import printable
from pllava.apps.caption.store import Row
from pllava.chat import Answer, VideoChat
from pllava.chat.caption.clips import caption_clips, without_cache
from pllava.chat.caption.dense import DenseCaption
from pllava.core.errors import PllavaError
from pllava.video.frames import VideoFrames
from pllava.video.readers import Readers

Tell = Callable[[str, float], None]  # called with a path and the number of its seconds that are captioned


def caption_batches(job: Job, batches: Iterable[list[str]], tell: Tell = lambda path, position: None) -> Iterator[list[tuple[str, Row]]]:
    """Yields the (path, row) pairs of each batch. A video that cannot be captioned gets a row with "error" and does not disturb others."""
    chat = without_cache(job.chat())
    if job.dense:
        yield from _dense_rows(job, chat, batches, tell)
        return
    with Readers(job.readers, job.time_limit, job.bounds(), chat.processor.picture) as readers:
        sizes: deque[int] = deque()

        def paths() -> Iterator[str]:
            for batch in batches:
                sizes.append(len(batch))
                yield from batch

        # The window is larger than a batch, so the next batch is being read while the model captions this one.
        read = readers.ahead(paths(), chat.processor.num_frames, chat.sampling, window=job.batch_size + job.readers)
        for first in read:
            clips = [(str(path), video) for path, video in (first, *islice(read, sizes.popleft() - 1))]
            yield list(zip([path for path, _ in clips], _rows(job, chat, clips), strict=True))


def _rows(job: Job, chat: VideoChat, batch: list[tuple[str, VideoFrames | PllavaError]]) -> list[Row]:
    clips = [video for _, video in batch if isinstance(video, VideoFrames)]
    answers: Iterator[Answer | PllavaError]
    try:
        answers = iter(caption_clips(chat, clips, job.question, job.max_new_tokens) if clips else [])
    except PllavaError:  # one clip fails; caption each on its own to see which
        answers = iter([_caption_or_error(job, chat, clip) for clip in clips])
    rows = []
    for path, video in batch:
        answer = video if isinstance(video, PllavaError) else next(answers)
        if isinstance(answer, PllavaError):
            rows.append(_failed(path, answer))
            continue
        assert isinstance(video, VideoFrames)
        row = {"video": printable(path), "caption": answer.text, "duration": round(video.duration, 6), "num_frames": video.num_frames_total}
        rows.append(row | ({"far": answer.distance.far} if answer.distance else {}))
    return rows


def _caption_or_error(job: Job, chat: VideoChat, clip: VideoFrames) -> Answer | PllavaError:
    try:
        return caption_clips(chat, [clip], job.question, job.max_new_tokens)[0]
    except PllavaError as error:
        return error


def _dense_rows(job: Job, chat: VideoChat, batches: Iterable[list[str]], tell: Tell) -> Iterator[list[tuple[str, Row]]]:
    """Yields the (path, row) pairs of each batch. The first scene of the next video is decoded while one is captioned."""
    waiting: deque[list[tuple[str, DenseCaption | PllavaError]]] = deque()
    for batch in batches:
        waiting.append([(path, _begin(job, chat, path)) for path in batch])
        if len(waiting) > 1:
            yield [(path, _dense_row(path, dense, tell)) for path, dense in waiting.popleft()]
    while waiting:
        yield [(path, _dense_row(path, dense, tell)) for path, dense in waiting.popleft()]


def _begin(job: Job, chat: VideoChat, path: str) -> DenseCaption | PllavaError:
    """A dense caption whose first scene is being decoded, or the error of its video."""
    try:
        dense = job.dense_caption(chat, path)
    except PllavaError as error:
        return error
    dense.scan.begin()
    return dense


def _dense_row(path: str, dense: DenseCaption | PllavaError, tell: Tell) -> Row:
    if isinstance(dense, PllavaError):
        return _failed(path, dense)
    try:
        return dense.entry(printable(path), lambda position: tell(path, position))
    except PllavaError as error:
        return _failed(path, error)


def _failed(path: str, error: PllavaError) -> Row:
    return {"video": printable(path), "error": printable(str(error))}
