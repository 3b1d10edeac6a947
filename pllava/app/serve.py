"""Serve the chat page in this process: `pllava demo`.

Nothing leaves the machine: loopback, no share link, system fonts, no analytics.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pllava.app import style
from pllava.app.engine import ChatEngine
from pllava.app.process import HOME, require_free_port
from pllava.app.samples import samples
from pllava.app.source import choose, describe_runtime, load_chat
from pllava.errors import PllavaError
from pllava.params import Params

if TYPE_CHECKING:
    import gradio as gr

MAX_FILE_SIZE = "200mb"
MAX_WAITING = 16  # requests in the queue; the next visitor is told to come back
UPLOADS = HOME / "uploads"


def serve(params: Params, *arguments: Any, **options: Any) -> None:
    """Load the model and serve the page until interrupted: `open_page`, and wait."""
    open_page(params, *arguments, **options).block_thread()


def open_page(
    params: Params,
    model: str | None = None,
    adapter: str | None = None,
    template: str | None = None,
    lora_alpha: float | None = None,
    host: str | None = None,
    port: int | None = None,
    say: Callable[[object], None] = print,
) -> gr.Blocks:
    """Load the model and serve the page from a thread of this process. Raises PllavaError: no such model, port in use."""
    host, port = host or params.deploy.host, port or params.deploy.port
    require_free_port(host, port, next_step="pllava demo --port PORT takes another one")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_TEMP_DIR", str(UPLOADS.absolute()))
    for name in ("NO_PROXY", "no_proxy"):  # gradio looks at its own address first, and a proxy would not find it
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host]))
    from pllava.app.demo import build_demo

    source = choose(params, model, adapter, template)
    say(f"model: {source.name}, {source.why}")
    engine = ChatEngine(load_chat(source, lora_alpha))
    engine.source = source
    say(f"runs on {describe_runtime(engine.chat.model)}; template {source.template}")
    try:
        clips = samples(params)
    except PllavaError as error:
        say(f"no sample clips: {error}")
        clips = []
    page = build_demo(engine, source, clips)
    page.engine = engine  # type: ignore[attr-defined]  # `pllava deploy` gives it another model (switch.py)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        max_file_size=MAX_FILE_SIZE,
        allowed_paths=sorted({str(clip.media.parent.absolute()) for clip in clips}),
        footer_links=["api"],
        theme=style.theme(),
        css=style.CSS,
        prevent_thread_lock=True,
    )
    say(f"http://{host}:{port}")
    return page
