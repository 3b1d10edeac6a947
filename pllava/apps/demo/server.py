"""Serve the chat page in this process: `pllava demo`.

The page sends nothing to other machines: it has no share link, no web fonts and no analytics.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pllava.apps.demo import style
from pllava.apps.demo.engine import ChatEngine
from pllava.apps.demo.samples import samples
from pllava.apps.web.auth import is_loopback, read_auth, require_auth_beyond_loopback
from pllava.apps.web.uploads import Uploads
from pllava.chat.model_ref import describe_runtime
from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.core.processes import HOME, require_free_port
from pllava.registry.default_model import choose, rival
from pllava.video.readers import Readers

if TYPE_CHECKING:
    import gradio as gr

MAX_FILE_SIZE = "200mb"
MAX_WAITING = 16  # requests in the queue; the next visitor is told to come back
UPLOADS = HOME / "uploads"


def serve(params: Params, *arguments: Any, **options: Any) -> None:
    """Load the model and serve the page until interrupted: `open_page`, and wait."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # `pllava stop` sends SIGTERM; atexit then removes the uploads
    open_page(params, *arguments, **options).block_thread()


def open_page(
    params: Params,
    model: str | None = None,
    adapter: str | None = None,
    template: str | None = None,
    lora_alpha: float | None = None,
    host: str | None = None,
    port: int | None = None,
    auth: str | None = None,
    say: Callable[[object], None] = print,
) -> gr.Blocks:
    """Load the model and serve the page from a thread of this process.

    Raises PllavaError: no such model, port in use, or a host beyond loopback without a password.
    """
    login = read_auth(auth)
    host, port = host or params.deploy.host, port or params.deploy.port
    require_auth_beyond_loopback(host, login)
    require_free_port(host, port, next_step="Take another: pllava demo --host HOST --port PORT")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    uploads = Uploads(UPLOADS)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.open())
    for name in ("NO_PROXY", "no_proxy"):  # gradio opens its own address first; a proxy cannot reach it
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host]))
    from starlette.middleware import Middleware

    from pllava.apps.demo.page import build_demo
    from pllava.apps.web.connections import Connection
    from pllava.apps.web.guard import Guard
    from pllava.apps.web.origin import LOCAL, OriginGuard
    from pllava.apps.web.refused_body import RefusedBody
    from pllava.apps.web.upload_middleware import Arrivals

    source = choose(params, model, adapter, template)
    say(f"model: {source.name}, {source.why}")
    engine = ChatEngine(source.load(lora_alpha))
    engine.source = source
    engine.readers = Readers(2, limits=engine.limits)
    say(f"runs on {describe_runtime(engine.chat.model)}; template {source.template}")
    try:
        clips = samples(params)
    except PllavaError as error:
        say(f"no sample clips: {error}")
        clips = []
    hosts = LOCAL | {host} if is_loopback(host) else None
    guards = [Middleware(RefusedBody), Middleware(Guard), Middleware(Arrivals, uploads)]

    @asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        """Put the origin guard in front of gradio's own middleware, because gradio's CORS layer allows pages of other local ports."""
        app.middleware_stack = OriginGuard(app.middleware_stack, hosts, "`pllava demo`")
        yield

    page = build_demo(engine, source, clips, uploads, lambda: rival(params, engine.source or source))
    page.engine = engine  # type: ignore[attr-defined]  # switch.py replaces the engine's model
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,  # messages of gr.Error; the handlers catch all other errors
        ssr_mode=False,
        max_file_size=MAX_FILE_SIZE,
        allowed_paths=[],  # gradio serves the upload folder only
        auth=login,
        app_kwargs={"middleware": guards, "lifespan": guarded},
        enable_monitoring=False,  # its dashboard shows who asked what
        run_history=False,
        footer_links=["api"],
        theme=style.theme(),
        css=style.CSS,
        prevent_thread_lock=True,
    )
    page.server.config.http_protocol_class = Connection  # gradio passes uvicorn no option; new connections are of this class
    uploads.keep_what_is_there()
    atexit.register(uploads.close)
    say(f"http://{host}:{port}")
    return page
