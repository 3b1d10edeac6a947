"""Addresses of the gallery, for pages that lead into it."""

from __future__ import annotations

from urllib.parse import quote, urlencode

PORT = 7861
ADDRESS = f"http://127.0.0.1:{PORT}"
HOW_TO_OPEN = "Links into it work while it runs: pllava gallery outputs/evaluate"


def how_to_open(place: object) -> str:
    """Under a Markdown table with links."""
    return f"The links lead into the gallery, while it runs: `pllava gallery {place}`"


def label(source: str, model: str, several: bool = True) -> str:
    """What the pages call a model's answers. several: there are other sources beside this one."""
    return f"{source}: {model}" if several else model


def sample(benchmark: str, id_: str) -> str:
    """One question."""
    return f"{ADDRESS}/sample/{quote(benchmark, safe='')}/{quote(id_, safe='/')}"


def questions(benchmark: str, task: str = "", model: str = "", verdict: str = "") -> str:
    """A benchmark's questions, filtered."""
    fields = {"benchmark": benchmark, "task": task, "model": model, "verdict": verdict}
    return f"{ADDRESS}/?{urlencode({name: value for name, value in fields.items() if value}, quote_via=quote)}"


def comparison(benchmark: str, *models: str) -> str:
    """Two models or more, on one benchmark."""
    return f"{ADDRESS}/compare?{urlencode([('benchmark', benchmark), *(('models', model) for model in models)], quote_via=quote)}"
