"""Serve the gallery in this process: `pllava gallery RESULTS`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pllava.apps.web.auth import is_loopback, read_auth, require_auth_beyond_loopback
from pllava.apps.web.origin import LOCAL
from pllava.artifacts.gallery_links import PORT
from pllava.core.params import Params
from pllava.core.processes import require_free_port


def serve(
    places: Sequence[str],
    params: Params | None = None,
    media: Mapping[str, Path] | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    auth: str | None = None,
    say: Callable[[object], None] = print,
) -> None:
    """Index the results and serve them until interrupted. The pages follow changes of the results.

    Raises PllavaError: no results, a line that is no result, a port in use, or a host beyond loopback without a password.
    """
    import uvicorn

    from pllava.apps.gallery.app import create_app
    from pllava.apps.gallery.current import Current
    from pllava.apps.web.connections import Connection

    login = read_auth(auth)
    require_auth_beyond_loopback(host, login)
    require_free_port(host, port, next_step="Take another: pllava gallery --host HOST --port PORT")
    began = time.monotonic()
    results = Current(places, params, media)
    shown = results.now()
    index = shown.index
    say(f"{index.total:,} questions, {len(index.models)} models, {', '.join(index.benchmarks)} ({time.monotonic() - began:.1f} s)")
    for file in shown.files:
        if file.root is None or not file.root.is_dir():
            say(f"{file.benchmark}: its clips are not shown, {file.root or 'their folder'} is not there. Say where: --media FOLDER")
    names = [*LOCAL, f"[{host}]" if ":" in host else host] if is_loopback(host) else None  # beyond loopback the password is the guard
    say(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    uvicorn.run(create_app(results, login, names), host=host, port=port, log_level="warning", server_header=False, http=Connection)
