"""The gallery's pages: `create_app(Current(["outputs/evaluate"]))` is an ASGI application.

Plain HTML from templates that escape all values, one script and one style sheet of our own. The content security policy forbids the browser
to load anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from pllava.apps.gallery.current import Current, Shown
from pllava.apps.gallery.queries import PAGE, SIDES, VERDICTS, Filter
from pllava.apps.web import media
from pllava.apps.web.plain_pages import guard
from pllava.core.errors import PllavaError
from pllava.registry.result_sources import ResultFile

FOLDER = Path(__file__).parent
MOST_COMPARED = 8
MOST_PAGES = 1_000_000
LONGEST = 500  # characters of a field in the address
NO_PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="3"/>'


def create_app(results: Current, auth: tuple[str, str] | None = None, hosts: Sequence[str] | None = None) -> FastAPI:
    """hosts: the names a browser may call us by; None: any name. A request for another name is refused, against DNS rebinding."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    pages = Environment(loader=FileSystemLoader(FOLDER / "pages"), autoescape=select_autoescape(["html"], default=True), trim_blocks=True)
    pages.filters.update(percent=_percent, seconds=_seconds, sample_url=_sample_url)
    pages.globals.update(page_size=PAGE, verdicts=VERDICTS, sides=SIDES)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"))

    def show(page: str, status: int = 200, *, of: Shown, **values: Any) -> HTMLResponse:
        return HTMLResponse(pages.get_template(page).render(index=of.index, state=of.state, notice=of.notice, **values), status)

    guard(app, hosts, auth, "pllava gallery")

    @app.exception_handler(HTTPException)
    def problem(request: Request, error: HTTPException) -> HTMLResponse:
        return show("problem.html", error.status_code, of=results.now(), message=error.detail)

    @app.exception_handler(PllavaError)
    def busy(request: Request, error: PllavaError) -> HTMLResponse:
        return show("problem.html", 503, of=results.now(), message=str(error))

    @app.exception_handler(RequestValidationError)
    def no_number(request: Request, error: RequestValidationError) -> HTMLResponse:
        return show("problem.html", 404, of=results.now(), message="There is no such question.")

    @app.get("/")
    def browse(request: Request) -> HTMLResponse:
        now, chosen = results.now(), _filter(request)
        index = now.index
        return show(
            "browse.html",
            of=now,
            chosen=chosen,
            count=index.count(_whole(chosen)),
            rows=index.page(chosen),
            shown=index.shown(chosen),
            scores=index.scores(chosen.benchmark, chosen.task),
        )

    @app.get("/compare")
    def compare(request: Request) -> HTMLResponse:
        now, chosen = results.now(), _filter(request)
        index = now.index
        models = chosen.models or index.default_pair
        unknown = [label for label in models if label not in index.models]
        if unknown:
            raise HTTPException(404, f"There is no model {unknown[0]!r} here. There are: {', '.join(index.models)}.")
        if len(models) < 2 or len(models) > MOST_COMPARED:
            few = "A comparison needs two models or more" if len(models) < 2 else f"At most {MOST_COMPARED} models are compared at once"
            return show("compare.html", of=now, chosen=chosen, models=models, comparison=None, hint=f"{few}.", rows=[], count=0)
        chosen = replace(chosen, models=models, model="", verdict="", side=chosen.side if chosen.side in SIDES else "differ")
        comparison = index.compare(models, chosen.benchmark, chosen.text)
        count, rows = index.count(_whole(chosen)), index.page(chosen)
        return show("compare.html", of=now, chosen=chosen, models=models, comparison=comparison, hint="", rows=rows, count=count)

    @app.get("/sample/{benchmark}/{sample:path}")
    def sample(request: Request, benchmark: str, sample: str) -> HTMLResponse:
        now = results.now()
        index = now.index
        questions = index.question(benchmark, sample, request.query_params.get("version", "")[:LONGEST])
        if not questions:
            raise HTTPException(404, f"There is no question {sample} of {benchmark} in these results.")
        chosen, question = _filter(request), questions[0]
        before, after, position = index.neighbours(chosen, question["id"])
        file = now.files[question["file"]]
        kind, trouble = None, ""
        try:
            kind = media.content_type(media.locate(file.root, question["media"]))
        except PllavaError as error:
            trouble = str(error)
        return show(
            "sample.html",
            of=now,
            chosen=chosen,
            q=question,
            others=questions[1:],
            before=before,
            after=after,
            position=position + 1,
            count=index.count(_whole(chosen)),
            kind=kind,
            trouble=trouble,
            file=file,
        )

    @app.get("/media/{number}")
    def clip(number: int, of: str = "") -> FileResponse:
        """The clip of a question, where a browser can show it. Range requests are answered, so a player can jump."""
        path, _, _ = located(number, of)
        kind = media.content_type(path)
        if kind is None:
            raise HTTPException(415, "A browser can't show this file as it is; its frames are shown instead.")
        return FileResponse(path, media_type=kind)

    @app.get("/frames/{number}")
    def frames(number: int, of: str = "") -> HTMLResponse:
        path, question, file = located(number, of)
        try:
            return show("frames.html", of=results.now(), number=number, strip=_strip(path, question, file))
        except PllavaError as error:
            return show("frames.html", of=results.now(), number=number, strip=None, trouble=str(error))

    @app.get("/frames/{number}/{index}.jpg")
    def frame(number: int, index: int, of: str = "") -> Response:
        path, question, file = located(number, of)
        try:
            pictures = _strip(path, question, file).pictures
        except PllavaError as error:
            raise HTTPException(415, str(error)) from None
        if not 0 <= index < len(pictures):
            raise HTTPException(404, "There is no such frame.")
        return Response(pictures[index], media_type="image/jpeg")

    @app.get("/thumbnail/{number}.jpg")
    def thumbnail(number: int, of: str = "") -> Response:
        """A picture of the clip for a list. An empty picture where there is none: the list goes on without it."""
        try:
            path, question, _ = located(number, of)
            picture = media.thumbnail(path, question["start"], question["end"])
        except (HTTPException, PllavaError):
            return Response(NO_PICTURE, media_type="image/svg+xml")
        return Response(picture, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    def located(number: int, of: str) -> tuple[Path, dict[str, Any], ResultFile]:
        """The clip's path, the question and its file of results.

        of: the state of the results when the page was made. In another state the number may belong to another question.
        Raises HTTPException: 410 when the state has changed, 404 when there is no such question or clip.
        """
        now = results.now()
        if of and of != now.state:
            raise HTTPException(410, "The results have changed since. Load the page again.")
        question = now.index.by_number(number) if number < 1 << 63 else None  # SQLite has no larger numbers
        if question is None:
            raise HTTPException(404, "There is no such question.")
        file = now.files[question["file"]]
        try:
            return media.locate(file.root, question["media"]), question, file
        except PllavaError as error:
            raise HTTPException(404, str(error)) from None

    return app


def _strip(path: Path, question: dict[str, Any], file: ResultFile) -> media.Strip:
    return media.strip(path, file.num_frames, file.frame_rule, question["start"], question["end"])


def _filter(request: Request) -> Filter:
    """The filter in the address. Values that are not valid are ignored."""
    query = request.query_params
    page = query.get("page", "1")
    return Filter(
        **{name: query.get(name, "")[:LONGEST] for name in ("benchmark", "task", "model", "verdict", "text", "side")},
        models=tuple(dict.fromkeys([*query.getlist("against"), *query.getlist("models")]))[: 4 * MOST_COMPARED],
        page=max(1, min(int(page), MOST_PAGES)) if page.isdecimal() and page.isascii() and len(page) < 10 else 1,
    )


def _whole(chosen: Filter) -> Filter:
    """The filter without its page, for counting."""
    return replace(chosen, page=1)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:g} s"


def _sample_url(question: dict[str, Any], query: str = "") -> str:
    """The stable address of a question: its benchmark and its id."""
    address = f"/sample/{quote(question['benchmark'], safe='')}/{quote(question['sample'], safe='/')}"
    return address + (f"?{query}" if query else "")
