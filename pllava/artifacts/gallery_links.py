"""URLs of the gallery's pages, for reports that link to them."""

from __future__ import annotations

from urllib.parse import quote, urlencode

PORT = 7861
ADDRESS = f"http://127.0.0.1:{PORT}"
HOW_TO_OPEN = "Links into it work while it runs: pllava gallery outputs/evaluate"


def how_to_open(folder: object) -> str:
    """The sentence under a Markdown table with links: how to start the gallery on `folder`."""
    return f"The links lead into the gallery, while it runs: `pllava gallery {folder}`"


def label(source: str, model: str, several: bool = True) -> str:
    """The name of a model's answers on the pages. several: the gallery shows more than one source."""
    return f"{source}: {model}" if several else model


def sample(benchmark: str, id_: str) -> str:
    """URL of the page of one question."""
    return f"{ADDRESS}/sample/{quote(benchmark, safe='')}/{quote(id_, safe='/')}"


def questions(benchmark: str, task: str = "", model: str = "", verdict: str = "") -> str:
    """URL of a benchmark's questions, filtered by task, model and verdict."""
    fields = {"benchmark": benchmark, "task": task, "model": model, "verdict": verdict}
    return f"{ADDRESS}/?{urlencode({name: value for name, value in fields.items() if value}, quote_via=quote)}"


def comparison(benchmark: str, *models: str) -> str:
    """URL of the comparison of models on one benchmark."""
    return f"{ADDRESS}/compare?{urlencode([('benchmark', benchmark), *(('models', model) for model in models)], quote_via=quote)}"
