"""The chat page. Upload a clip or take a held-out one, ask, and see which model answers. `pllava demo` serves it (serve.py)."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr

from pllava.app.engine import ChatEngine
from pllava.app.frames import strip, thumbnail
from pllava.app.samples import Sample
from pllava.app.source import ModelSource, describe_runtime, is_toy
from pllava.errors import PllavaError

GENERAL_QUESTIONS = ["Describe the video in detail.", "What happens in the video?"]
MAX_QUESTION = 2000  # characters
KEEP_UPLOADS = (3600, 24 * 3600)  # seconds: how often to look, how old an upload may get
NO_VIDEO = '<p class="empty">The frames the model looks at appear here.</p>'
PROBLEM = "⚠️ "  # begins a message that is not the model's
Message = dict[str, Any]


def build_demo(engine: ChatEngine, source: ModelSource, clips: list[Sample]) -> gr.Blocks:
    """The page, not yet launched. Endpoints for clients: /ask (video file, question -> answer) and /version."""
    model = engine.chat.model
    toy = is_toy(model)

    def serving() -> ModelSource:  # `pllava deploy` may have put another version in (switch.py)
        return engine.source or source

    def watch(path: str | None) -> tuple[str, list[Message], Any]:
        """A new clip: show its frames, forget the conversation, offer its questions."""
        if not path:
            return NO_VIDEO, [], gr.Dataset(samples=[[q] for q in GENERAL_QUESTIONS])
        try:
            watched = engine.watch(path)
        except PllavaError as error:
            return _problem(error, path), [], gr.Dataset(samples=[[q] for q in GENERAL_QUESTIONS])
        shown = strip(watched.frames, engine.chat.processor.pooling_shape)
        clip = next((clip for clip in clips if clip.media.name == Path(path).name), None)
        questions = ([clip.question] if clip else []) + GENERAL_QUESTIONS
        return shown + (_truth(clip) if clip else ""), [], gr.Dataset(samples=[[q] for q in questions])

    def put(question: str, history: list[Message]) -> tuple[str, list[Message]]:
        """Show the question at once."""
        question = question.strip()
        return ("", [*history, {"role": "user", "content": question}]) if question else ("", history)

    def reply(path: str | None, history: list[Message]) -> Iterator[list[Message]]:
        """Stream the answer to the last question; what goes wrong is said in the chat."""
        if not history or history[-1]["role"] != "user":
            yield history
            return
        if not path:
            yield [
                *history,
                {"role": "assistant", "content": PROBLEM + "Please choose a video first: upload one, or take a held-out clip."},
            ]
            return
        said = _pairs(history[:-1]) if source.turns == "conversation" else []
        try:
            for answer in engine.stream(path, _text(history[-1]), said):
                yield [*history, {"role": "assistant", "content": answer}]
        except PllavaError as error:
            yield [*history, {"role": "assistant", "content": PROBLEM + _without_path(error, path)}]

    def ask(video: str | None, question: str) -> str:
        if not video:
            raise gr.Error("a video file is needed", print_exception=False)
        if not question or not question.strip():
            raise gr.Error("a question is needed", print_exception=False)
        if len(question) > MAX_QUESTION:
            raise gr.Error(f"the question has {len(question)} characters, {MAX_QUESTION} are allowed", print_exception=False)
        try:
            return engine.ask(video, question.strip())
        except PllavaError as error:
            raise gr.Error(_without_path(error, video), print_exception=False) from None

    def version() -> dict[str, Any]:
        now = serving()
        return {"model": now.name, "version": now.version, "adapter_sha256": now.adapter_sha256, "pid": os.getpid()}

    def take(event: gr.SelectData) -> str:
        return str(clips[event.index].media.absolute())

    with gr.Blocks(title="PLLaVA", analytics_enabled=False, delete_cache=KEEP_UPLOADS) as page:
        head = gr.HTML(_head(source))
        if toy:
            gr.HTML(TOY_NOTICE)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                video = gr.Video(label="Video", sources=["upload"], height=300, elem_id="video", buttons=[])
                frames = gr.HTML(NO_VIDEO)
                if clips:
                    gr.HTML('<p class="heading">Held-out clips <span>no training has seen them</span></p>')
                    gallery = gr.Gallery(
                        [(_poster(clip), clip.task) for clip in clips],
                        label="Held-out clips",
                        show_label=False,
                        elem_id="samples",
                        columns=8,
                        height="auto",
                        allow_preview=False,
                        interactive=False,
                        object_fit="cover",
                        buttons=[],
                    )
            with gr.Column(scale=6, min_width=320):
                chat = gr.Chatbot(
                    label="Conversation",
                    height=420,
                    layout="bubble",
                    buttons=["copy"],
                    feedback_options=None,
                    placeholder="Choose a video, then ask about it."
                    + ("" if source.turns == "conversation" else " Each question is answered on its own."),
                    elem_id="chat",
                    allow_tags=False,
                )
                question = gr.Textbox(
                    show_label=False,
                    placeholder="Ask about the video",
                    submit_btn=True,
                    max_length=MAX_QUESTION,
                    elem_id="question",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                )
                examples = gr.Dataset(
                    label="Try", components=["textbox"], samples=[[q] for q in GENERAL_QUESTIONS], type="values", elem_id="questions"
                )
                with gr.Row():
                    stop = gr.Button("Stop", size="sm")
                    clear = gr.Button("Start over", size="sm")
        lineage = gr.HTML(_lineage(source, describe_runtime(model)))
        page.load(
            lambda: (_head(serving()), _lineage(serving(), describe_runtime(engine.chat.model))),
            None,
            [head, lineage],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

        model_event: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        if clips:
            gallery.select(take, None, video, queue=False, show_progress="hidden", api_visibility="private")
        video.change(watch, video, [frames, chat, examples], show_progress_on=frames, **model_event)
        asked = question.submit(put, [question, chat], [question, chat], queue=False, api_visibility="private")
        asked_reply = asked.then(reply, [video, chat], chat, **model_event)
        taken = examples.click(lambda row, history: put(row[0], history)[1], [examples, chat], chat, queue=False, api_visibility="private")
        taken_reply = taken.then(reply, [video, chat], chat, **model_event)
        stop.click(None, cancels=[asked_reply, taken_reply], api_visibility="private")
        clear.click(
            lambda: (None, [], NO_VIDEO),
            None,
            [video, chat, frames],
            cancels=[asked_reply, taken_reply],
            queue=False,
            api_visibility="private",
        )

        api_in = [gr.File(label="video", visible=False), gr.Textbox(label="question", visible=False)]
        api_out, api_version = gr.Textbox(label="answer", visible=False), gr.JSON(label="version", visible=False)
        gr.Button(visible=False).click(ask, api_in, api_out, api_name="ask", concurrency_id="model", concurrency_limit=1)
        gr.Button(visible=False).click(version, None, api_version, api_name="version", queue=False)
    return page


TOY_NOTICE = (
    '<div class="notice">This is the tiny model of the default pipeline. All it has ever seen are rendered pictures and clips of colored '
    "shapes, and questions about them, so it knows nothing about real videos. The real one: "
    "<code>pllava demo --model ermu2001/pllava-7b</code> (a GPU with 24 GB), or train it: <code>pllava recipe use pllava-7b</code>.</div>"
)


def _head(source: ModelSource) -> str:
    return (
        '<div class="pllava-head"><h1>PLLaVA</h1><p>An image-language model taken to video: frames are pooled into visual tokens, '
        f'and a language model answers.</p><span class="badge">{html.escape(source.name)}</span></div>'
    )


def _lineage(source: ModelSource, runtime: str) -> str:
    rows = {"served": source.name, "template": source.template, "runs on": runtime} | source.lineage
    items = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in rows.items())
    return (
        f'<details class="lineage"><summary>Served: <b>{html.escape(source.name)}</b>, on {html.escape(runtime)}. '
        f"Where it comes from</summary><dl>{items}</dl></details>"
    )


def _truth(clip: Sample) -> str:
    task, question, answer = map(html.escape, (clip.task, clip.question, clip.answer))
    return f'<p class="facts">{task}: “{question}” The annotation says: <b>{answer}</b></p>'


def _poster(clip: Sample) -> Any:
    from pllava.video.reader import read_video

    return thumbnail(read_video(clip.media, num_frames=1).frames[0])


def _problem(error: PllavaError, path: str) -> str:
    return f'<div class="problem" role="alert">{html.escape(_without_path(error, path))}</div>'


def _without_path(error: PllavaError, path: str) -> str:
    """The message with the file's name only: where uploads are kept is nobody's business."""
    return str(error).replace(path, Path(path).name)


def _pairs(history: list[Message]) -> list[tuple[str, str]]:
    """Questions with their answers. A question that was stopped, or refused, was not part of the conversation."""
    pairs = []
    for first, second in pairwise(history):
        if first["role"] == "user" and second["role"] == "assistant" and not _text(second).startswith(PROBLEM):
            pairs.append((_text(first), _text(second)))
    return pairs


def _text(message: Message) -> str:
    """Text of a chat message; Gradio hands the content back as a list of parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
