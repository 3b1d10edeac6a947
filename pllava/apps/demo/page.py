"""The chat page: upload a clip or take a held-out one, and ask about it. `pllava demo` serves the page (server.py)."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pllava.apps.demo import components, duel
from pllava.apps.demo.captions import FORMATS, MORE, STOPPED, caption_clip
from pllava.apps.demo.components import NO_VIDEO, RESTARTED, TOY_NOTICE
from pllava.apps.demo.engine import ChatEngine
from pllava.apps.demo.handlers import CHOOSE, OURS, Clip, Message, Visits, asked, stopped, text_of, turns, up_to
from pllava.apps.demo.record import as_json, as_markdown
from pllava.apps.demo.samples import Sample
from pllava.apps.demo.scripts import FOLLOW, SAVE, SEEK, TELL, TO_CHAT
from pllava.apps.demo.settings_panel import panel, settings_from, strengths
from pllava.apps.web.frames import thumbnail
from pllava.apps.web.uploads import Uploads
from pllava.chat.model_ref import ModelRef, describe_runtime, is_toy
from pllava.core.errors import PllavaError

log = logging.getLogger(__name__)
GENERAL_QUESTIONS = ["Describe the video in detail.", "What happens in the video?"]
MAX_QUESTION = 2000  # characters
CAPTIONS = object()  # the work of `caption`, for Visits
KEEP_UPLOADS = (3600, 24 * 3600)  # seconds: time between two checks, greatest age of an upload
HIDDEN: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}


def build_demo(
    engine: ChatEngine, source: ModelRef, clips: list[Sample], uploads: Uploads, rival: Callable[[], ModelRef | None] = lambda: None
) -> gr.Blocks:
    """The page, not yet launched. Endpoints for programs: /ask (video file, question -> answer) and /version.

    source: the model that `engine` has now. clips: samples that the page offers. rival: the version to compare with the
    one that answers; asked whenever a page is opened.
    """
    model = engine.chat.model
    visits = Visits(engine, uploads, source.turns)
    server = uuid.uuid4().hex  # a new one after a restart
    apart = "" if source.turns == "conversation" else " Each question is answered on its own."

    def serving() -> ModelRef:
        """The model that answers now. A switch may have replaced `source`."""
        return engine.source or source

    def version() -> dict[str, Any]:
        current = serving()
        return {"model": current.name, "version": current.version, "adapter_sha256": current.adapter_sha256, "pid": os.getpid()}

    def current_facts() -> dict[str, Any]:
        """The facts about server and model. An open page keeps them and sends them back with each request."""
        current = serving()
        return {"server": server, "model": current.name, "adapter_sha256": current.adapter_sha256, "alpha": engine.lora_alpha}

    settings_of = partial(settings_from, engine)

    def restarted(page_facts: dict[str, Any] | None) -> bool:
        """Whether a page with these facts was opened before the server restarted."""
        return page_facts is not None and page_facts.get("server") != server

    def follow(page_facts: dict[str, Any] | None) -> tuple[Any, ...]:
        """New values of the components in `about`, for a page with old facts."""
        if page_facts == (facts := current_facts()):
            return tuple(gr.skip() for _ in range(6))
        model = engine.chat.model
        lineage = components.lineage(serving(), describe_runtime(model))
        strength = gr.Slider(**strengths(engine.lora_alpha))
        # A page of an earlier server keeps its facts, so that its next question gets the answer RESTARTED.
        notice_and_facts = (components.problem(RESTARTED), gr.skip()) if restarted(page_facts) else (gr.skip(), facts)
        return components.head(serving()), gr.HTML(visible=is_toy(model)), lineage, strength, *notice_and_facts

    def show(clip: Clip | None, frames: str, questions: list[str]) -> tuple[Any, ...]:
        """Values of the components in `shown`. frames: HTML of the frames, or of a problem; questions: examples to try."""
        kind = (clip.kind or "") if clip else ""
        video = clip is not None and not kind.startswith("image/")
        return (
            clip,
            gr.Video(clip.path if clip and kind.startswith("video/") else None, visible=kind.startswith("video/"), subtitles=None),
            gr.Image(clip.path if clip and kind.startswith("image/") else None, visible=kind.startswith("image/")),
            frames,
            gr.Chatbot([], placeholder=f"{'Ask about the clip.' if clip else 'Choose a video, then ask about it.'}{apart}"),
            gr.Dataset(samples=[[question] for question in questions]),
            gr.Button(visible=video),
            "",
            *(gr.DownloadButton(visible=False) for _ in FORMATS),
        )

    def upload(path: str | None, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        if not path:
            return start_over(request)
        try:
            clip = visits.look(str(request.session_hash), path, settings_of(*values))
        except PllavaError as error:
            return (None, *show(None, components.problem(str(error)), GENERAL_QUESTIONS))  # empties the upload box, for another file
        return (gr.skip(), *show(clip, clip.strip, GENERAL_QUESTIONS))

    def take(event: gr.SelectData, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        sample = clips[event.index]
        try:
            clip = visits.look(str(request.session_hash), str(sample.media), settings_of(*values), ours=True)
        except PllavaError as error:
            return show(None, components.problem(str(error)), GENERAL_QUESTIONS)
        return show(clip, clip.strip + components.truth(sample), [sample.question, *GENERAL_QUESTIONS])

    def look_again(clip: Clip | None, *values: Any) -> Any:
        if clip is None:
            return gr.skip()
        try:
            return visits.look_again(clip, settings_of(*values))
        except PllavaError as error:
            return components.problem(str(error))

    def note(history: list[Message], request: gr.Request) -> None:
        visits.asks(str(request.session_hash), history)

    def reply(clip: Clip | None, request: gr.Request, *values: Any) -> Iterator[list[Message]]:
        try:
            settings = settings_of(*values)
        except (PllavaError, TypeError, ValueError) as error:
            visits.ends(str(request.session_hash))
            raise gr.Error(str(error), print_exception=False) from None
        yield from visits.reply(str(request.session_hash), clip, settings, RESTARTED if restarted(values[-1]) else CHOOSE)

    def useful(history: list[Message], clip: Clip | None, request: gr.Request) -> list[Any]:
        """The buttons below the chat; one that would do nothing is disabled."""
        wanted = [visits.busy(str(request.session_hash)), bool(history), bool(history), clip is not None, bool(history), bool(history)]
        return [gr.Button(interactive=use) for use in wanted]

    def end(history: list[Message], listed: str, request: gr.Request) -> tuple[list[Message], str]:
        """Stop was pressed: mark the answer, or the captions."""
        visits.ends(str(request.session_hash))
        return stopped(history, "Stopped before the first word."), listed.replace(MORE, STOPPED)

    def clear_chat(request: gr.Request) -> list[Message]:
        visits.ends(str(request.session_hash))
        return []

    def file_of(history: list[Message], clip: Clip | None, kind: str) -> str:
        """[name, type, text] of the conversation as a file, for the script SAVE."""
        video = Path(clip.path).name if clip else ""
        name = f"{Path(video).stem or 'chat'}.{kind}"
        text = (as_json if kind == "json" else as_markdown)(video, turns(history))
        return json.dumps([name, "application/json" if kind == "json" else "text/markdown", text])

    def both(clip: Clip | None, words: str, history: list[Message], *values: Any) -> Iterator[duel.Duel]:
        """The question in the box, or the last one of the conversation, for both versions."""
        question = words.strip() or next((text_of(one) for one in reversed(history) if one["role"] == "user"), "")
        other = rival()
        if clip is None or not question:
            raise PllavaError("Choose a video and write a question first." if clip is None else "Write a question first.")
        if other is None:
            raise PllavaError("There is no second version any more. Reload the page.")
        yield from duel.ask_both(engine, other, clip.path, question[:MAX_QUESTION], settings_of(*values))

    def begin_captions(request: gr.Request) -> Any:
        visits.begins(str(request.session_hash), CAPTIONS)
        return gr.Button(interactive=True)

    def caption(clip: Clip | None, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        no_files = [gr.DownloadButton(visible=False) for _ in FORMATS]
        if clip is None:
            visits.ends(str(request.session_hash), CAPTIONS)
            yield (gr.skip(), components.problem(RESTARTED if restarted(values[-1]) else CHOOSE), *no_files)
            return
        try:
            for progress in caption_clip(engine, uploads, str(request.session_hash), clip.path, settings_of(*values)):
                if not progress.files:
                    yield (gr.skip(), progress.listed, *no_files)
                    continue
                playable = (clip.kind or "").startswith("video/")
                track = gr.Video(clip.path, subtitles=progress.files[0]) if playable else gr.skip()
                yield (track, progress.listed, *(gr.DownloadButton(value=file, visible=True) for file in progress.files))
        except PllavaError as error:
            yield (gr.skip(), components.problem(components.sentence(error, clip.path)), *no_files)
        except Exception:
            log.exception("captions failed")
            yield (gr.skip(), components.problem(OURS), *no_files)
        finally:
            visits.ends(str(request.session_hash), CAPTIONS)

    def ask(video: str | None, question: str) -> str:
        if not video:
            raise gr.Error("a video file is needed", print_exception=False)
        try:
            if not question or not question.strip():
                raise gr.Error("a question is needed", print_exception=False)
            if len(question) > MAX_QUESTION:
                raise gr.Error(f"the question has {len(question)} characters, {MAX_QUESTION} are allowed", print_exception=False)
            return engine.ask(video, question.strip())
        except gr.Error:
            raise
        except PllavaError as error:
            raise gr.Error(components.sentence(error, video), print_exception=False) from None
        except Exception:
            log.exception("a question failed")
            raise gr.Error(OURS, print_exception=False) from None
        finally:
            uploads.answered(video)

    def start_over(request: gr.Request) -> tuple[Any, ...]:
        visits.ends(str(request.session_hash))
        uploads.release(str(request.session_hash))
        return (None, *show(None, NO_VIDEO, GENERAL_QUESTIONS))

    def leave(request: gr.Request) -> None:
        visits.leave(request.session_hash)

    with gr.Blocks(title="PLLaVA", analytics_enabled=False, delete_cache=KEEP_UPLOADS) as page:
        clip = gr.State(None)
        page_facts = gr.JSON(current_facts(), visible="hidden", elem_id="told")  # in the browser: it survives a restart
        head = gr.HTML(components.head(source))
        notice = gr.HTML("", elem_id="restarted")
        toy = gr.HTML(TOY_NOTICE, visible=is_toy(model))
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                file = gr.File(label="Upload a video or an image", file_types=["video", "image"], height=140, elem_id="upload")
                player = gr.Video(label="Video", height=300, elem_id="video", buttons=[], interactive=False, visible=False)
                picture = gr.Image(
                    label="Image", height=300, elem_id="picture", buttons=[], interactive=False, visible=False, type="filepath"
                )
                frames = gr.HTML(NO_VIDEO, elem_id="frames")
                dense = gr.Button("Caption the whole video", size="sm", visible=False, elem_id="dense")
                captions = gr.HTML("", elem_id="captions")
                with gr.Row(elem_id="downloads"):
                    downloads = [gr.DownloadButton(kind.upper(), size="sm", min_width=80, visible=False) for kind in FORMATS]
                if clips:
                    gr.HTML('<p class="heading">Held-out clips <span>no training has seen them</span></p>')
                    gallery = gr.Gallery(
                        [(_poster(sample), sample.task) for sample in clips],
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
                    height="max(420px, 58vh)",
                    layout="bubble",
                    buttons=["copy"],
                    editable="user",
                    feedback_options=None,
                    render_markdown=False,  # text of a model or a visitor is plain text
                    placeholder=f"Choose a video, then ask about it.{apart}",
                    elem_id="chat",
                    allow_tags=False,
                    latex_delimiters=[],
                )
                question = gr.Textbox(
                    label="Your question",
                    placeholder="Ask about the video",
                    submit_btn=True,
                    max_length=MAX_QUESTION,
                    elem_id="question",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                )
                examples = gr.Dataset(
                    label="Try", components=["textbox"], samples=[[q] for q in GENERAL_QUESTIONS], type="values", elem_id="questions"
                )
                with gr.Row(elem_id="actions"):
                    names = {"stop": "Stop", "retry": "Ask again", "clear": "Clear chat", "new": "New video"}
                    names |= {"markdown": "Save chat", "json": "Save data"}
                    buttons = [gr.Button(text, size="sm", min_width=70, elem_id=name, interactive=False) for name, text in names.items()]
                    stop, retry, clear, new, *saves = buttons
                    saved = gr.Textbox(visible=False)
                comparison = gr.Column()
                with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                    settings = [*panel(engine), page_facts]
        lineage = gr.HTML(components.lineage(source, describe_runtime(model)))
        about = [head, toy, lineage, settings[-2], notice, page_facts]  # settings[-2]: LoRA alpha
        page.load(lambda: follow(None), None, about, **HIDDEN)
        gr.Button("Follow", visible="hidden", elem_id="follow").click(follow, page_facts, about, js=TELL, **HIDDEN)
        page.load(None, js=FOLLOW)
        page.load(None, js=SEEK)

        shown = [clip, player, picture, frames, chat, examples, dense, captions, *downloads]
        answers: list[Any] = []

        def then_buttons(event: Any) -> None:
            event.then(useful, [chat, clip], buttons, **HIDDEN)

        def answer(event: Any) -> None:
            """Answer the last question of the conversation after this event of the page."""
            noted = event.then(note, chat, None, **HIDDEN)
            then_buttons(noted)
            answered = noted.then(reply, [clip, *settings], chat, trigger_mode="multiple", **MODEL)
            answers.append(answered)
            answered.then(follow, page_facts, about, **HIDDEN)
            then_buttons(answered)

        answer(question.submit(lambda q, history: ("", asked(q, history)), [question, chat], [question, chat], **HIDDEN))
        answer(examples.click(lambda row, history: asked(row[0], history), [examples, chat], chat, **HIDDEN))
        answer(retry.click(lambda history: up_to(history, len(history) - 1) if history else history, chat, chat, **HIDDEN))
        answer(chat.retry(_retry, chat, chat, **HIDDEN))
        answer(chat.edit(_edit, chat, chat, **HIDDEN))
        with comparison:
            answers.append(duel.panel(both, lambda: rival() is not None, page, [clip, question, chat, *settings], **MODEL))
        begun = dense.click(begin_captions, None, stop, **HIDDEN)
        answers.append(begun.then(caption, [clip, *settings], [player, captions, *downloads], show_progress_on=captions, **MODEL))
        then_buttons(answers[-1])
        halted = stop.click(end, [chat, captions], [chat, captions], cancels=answers, **HIDDEN)
        then_buttons(halted.then(lambda history: stopped(history), chat, chat, **HIDDEN))  # a last piece may have come after the mark
        then_buttons(clear.click(clear_chat, None, chat, cancels=answers, **HIDDEN))
        for save, kind in zip(saves, ("md", "json"), strict=True):
            save.click(partial(file_of, kind=kind), [chat, clip], saved, **HIDDEN).then(None, saved, None, js=SAVE)
        then_buttons(new.click(start_over, None, [file, *shown], cancels=answers, **HIDDEN))
        then_buttons(file.upload(upload, [file, *settings], [file, *shown], cancels=answers, show_progress_on=frames, **MODEL))
        then_buttons(file.clear(start_over, None, [file, *shown], cancels=answers, **HIDDEN))
        if clips:
            taken = gallery.select(take, settings, shown, cancels=answers, show_progress_on=frames, **MODEL)
            taken.then(None, js=TO_CHAT)
            then_buttons(taken)
        settings[1].change(look_again, [clip, *settings], frames, trigger_mode="always_last", **MODEL)
        page.unload(leave)

        api_in = [gr.File(label="video", visible=False), gr.Textbox(label="question", visible=False)]
        api_out, api_version = gr.Textbox(label="answer", visible=False), gr.JSON(label="version", visible=False)
        gr.Button(visible=False).click(ask, api_in, api_out, api_name="ask", concurrency_id="model", concurrency_limit=1)
        gr.Button(visible=False).click(version, None, api_version, api_name="version", queue=False)
        serving_now = gr.Textbox(visible=False)
        gr.Button(visible=False).click(
            lambda: json.dumps(current_facts()), None, serving_now, api_name="serving", api_visibility="undocumented", queue=False
        )
    return page


def _retry(history: list[Message], event: gr.RetryData) -> list[Message]:
    return up_to(history, event.index)


def _edit(history: list[Message], event: gr.EditData) -> list[Message]:
    text = event.value if isinstance(event.value, str) else str(event.value)
    return up_to(history, event.index, text[:MAX_QUESTION])


def _poster(clip: Sample) -> Any:
    from pllava.video.readers import Readers

    return thumbnail(Readers(1).read(clip.media, num_frames=1).frames[0])
