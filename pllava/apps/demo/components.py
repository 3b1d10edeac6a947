"""Parts of the chat page in plain HTML. Text from a model, a file name or an annotation is escaped here."""

from __future__ import annotations

import html
import re

from pllava.apps.demo.samples import Sample
from pllava.chat.model_ref import ModelRef
from pllava.core.errors import PllavaError

RESTARTED = "The server restarted and no longer has your video. Reload the page."
NO_VIDEO = '<p class="empty">The frames the model looks at appear here.</p>'
REFUSALS = {  # words of an error: what a visitor can do about it
    "the file is empty": "the file is empty. Choose another, or upload it again.",
    "no video stream": "there is no picture in this file, only sound or data. Choose a video or an image.",
    "not a readable": "this is no video or image, or it is damaged. Choose another file.",
    "damaged": "the file is damaged. Choose another, or save it anew with a video editor.",
    "cut off": "the file is not whole. Upload it again, or choose another.",
    "does not decode": "the picture is damaged. Choose another file.",
}
TOY_NOTICE = (
    '<div class="notice">This is a tiny model, far smaller than any published PLLaVA: what it says about real videos means little. '
    "What it was trained on: <code>pllava lineage</code>. The real one: "
    "<code>pllava demo --model ermu2001/pllava-7b</code> (a GPU with 24 GB), or train it: <code>pllava recipe use pllava-7b</code>.</div>"
)


def head(source: ModelRef) -> str:
    """The page's title and the name of the model."""
    return (
        '<div class="pllava-head"><h1>PLLaVA</h1><p>An image-language model taken to video: frames are pooled into visual tokens, '
        f'and a language model answers.</p><span class="badge" role="status">{html.escape(source.name)}</span></div>'
    )


def lineage(source: ModelRef, runtime: str) -> str:
    """Where the model comes from. runtime: device and number format, in words."""
    rows = {"served": source.name, "template": source.template, "runs on": runtime} | source.lineage
    items = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in rows.items())
    registered = f"models:/{source.name.split(' version ')[0]}/{source.version}" if source.version is not None else None
    command = f"<p>The whole chain: <code>pllava lineage {html.escape(registered)}</code></p>" if registered else ""
    return (
        f'<details class="lineage"><summary>Served: <b>{html.escape(source.name)}</b>, on {html.escape(runtime)}. '
        f"Where it comes from</summary><dl>{items}</dl>{command}</details>"
    )


def truth(clip: Sample) -> str:
    """The annotated question and answer of a sample clip."""
    task, question, answer = map(html.escape, (clip.task, clip.question, clip.answer))
    return f'<p class="facts">{task}: “{question}” The annotation says: <b>{answer}</b></p>'


def problem(text: str) -> str:
    return f'<div class="problem" role="alert">{html.escape(text)}</div>'


def sentence(error: PllavaError, path: str | None = None) -> str:
    """The error's message for a visitor: with the file's name instead of its path, and without advice for programmers."""
    text = str(error)
    if friendly := next((friendly for words, friendly in REFUSALS.items() if words in text), None):
        return f"{path.rsplit('/', 1)[-1]}: {friendly}" if path else friendly
    if path:
        text = text.replace(path, path.rsplit("/", 1)[-1])
    return re.sub(r", or pass Limits\([^)]*\)", "", text)
