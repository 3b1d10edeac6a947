"""The page of `pllava data label`: a list of clips, and for each clip a player, its questions and a form. Plain HTML without scripts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape

from pllava.apps.label.notes import TEST, TRAIN, Notes
from pllava.apps.web import media
from pllava.apps.web.plain_pages import guard
from pllava.core.errors import PllavaError

FOLDER = Path(__file__).parent
NUM_FRAMES = 8  # pictures of a clip that a browser can't play


def create_app(folder: Path, auth: tuple[str, str] | None = None, hosts: Collection[str] | None = None) -> FastAPI:
    """hosts: the names a browser may call the page by; None: any name, for a page with a password."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    pages = Environment(loader=FileSystemLoader(FOLDER), autoescape=select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True)
    pages.filters["address"] = lambda clip: quote(clip, safe="/")
    notes = Notes(folder)
    guard(app, hosts, auth, "pllava data label")

    def show(clip: str | None, status: int = 200, problem: str = "", **typed: str) -> HTMLResponse:
        clips = notes.clips()
        names = list(clips)
        turns, tests = notes.of(clip) if clip else ([], [])
        following = names[(names.index(clip) + 1) % len(names)] if clip in clips else None
        values = {"folder": folder, "clips": clips, "clip": clip, "turns": turns, "tests": tests, "following": following}
        playable = clip is not None and media.content_type(media.locate(folder, clip))
        files = {"train": TRAIN, "test": TEST}
        text = pages.get_template("page.html").render(**values, **files, playable=playable, problem=problem, typed=typed, frames=NUM_FRAMES)
        return HTMLResponse(text, status)

    @app.exception_handler(PllavaError)
    def refused(request: Request, error: PllavaError) -> Response:
        return Response(f"{error}\n", 404, media_type="text/plain")

    @app.get("/style.css")
    def style() -> FileResponse:
        return FileResponse(FOLDER / "style.css", media_type="text/css")

    @app.get("/")
    def start() -> HTMLResponse:
        return show(None)

    @app.get("/clip/{clip:path}")
    def page(clip: str) -> HTMLResponse:
        return show(_known(clip))

    @app.post("/clip/{clip:path}")
    def change(
        clip: str,
        question: Annotated[str, Form()] = "",
        answer: Annotated[str, Form()] = "",
        options: Annotated[str, Form()] = "",
        remove: Annotated[str, Form()] = "",
    ) -> Response:
        clip = _known(clip)
        try:
            if remove:
                notes.remove(clip, remove)
            else:
                notes.add(clip, question, answer, options.splitlines())
        except PllavaError as error:
            return show(clip, 400, str(error), question=question, answer=answer, options=options)
        return RedirectResponse(f"/clip/{quote(clip, safe='/')}", 303)

    @app.get("/media/{clip:path}")
    def file(clip: str) -> FileResponse:
        path = media.locate(folder, _known(clip))
        return FileResponse(path, media_type=media.content_type(path) or "application/octet-stream")

    @app.get("/frame/{index}/{clip:path}")
    def frame(index: int, clip: str) -> Response:
        pictures = media.strip(media.locate(folder, _known(clip)), NUM_FRAMES, "middle", None, None).pictures
        return Response(pictures[max(0, min(index, len(pictures) - 1))], media_type="image/jpeg")

    def _known(clip: str) -> str:
        if clip not in notes.clips():
            raise PllavaError(f"there is no clip {clip!r} in {folder}")
        return clip

    return app


def serve(folder: Path, host: str, port: int, auth: str | None) -> None:
    """Serve the page until interrupted. Raises PllavaError: no clip there, a port in use, or a host beyond loopback without a password."""
    import uvicorn

    from pllava.apps.web.auth import is_loopback, read_auth, require_auth_beyond_loopback
    from pllava.apps.web.connections import Connection
    from pllava.apps.web.origin import LOCAL
    from pllava.core.processes import require_free_port

    login = read_auth(auth)
    require_auth_beyond_loopback(host, login)
    require_free_port(host, port, next_step="Take another: pllava data label FOLDER --port PORT")
    if not folder.is_dir() or not (clips := Notes(folder).clips()):
        raise PllavaError(f"{folder} holds no clip (.mp4, .mkv, .webm, ...). Name the folder of your clips")
    address = f"[{host}]" if ":" in host else host
    print(f"{len(clips)} clip(s), {sum(clips.values())} question(s). Open http://{address}:{port}, end with Ctrl-C", flush=True)
    names = [*LOCAL, address] if is_loopback(host) else None
    uvicorn.run(create_app(folder, login, names), host=host, port=port, log_level="warning", server_header=False, http=Connection)
