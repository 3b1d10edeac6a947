"""A document in two forms: Markdown beside its image files, and one HTML file with embedded images and no outside requests."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from urllib.parse import quote

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 900px; margin: 2.5rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .6rem; }
.lead { font-size: 1.15rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
table.left th, table.left td { text-align: left; overflow-wrap: anywhere; }
tr.total td { font-weight: 600; border-top: 2px solid #999; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
"""
# the browser refuses outside requests even if the document contained one
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Document:
    """Headings, paragraphs, tables and images, in order. All text is escaped, so a model's answer can't become markup."""

    def __init__(self, title: str):
        self.title = title
        self._markdown: list[str] = [f"# {_escape(title)}"]
        self._html: list[str] = [f"<h1>{html.escape(title)}</h1>"]
        self.images: dict[str, bytes] = {}

    def heading(self, text: str, level: int = 2) -> None:
        self._markdown.append(f"{'#' * level} {_escape(text)}")
        self._html.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str, lead: bool = False) -> None:
        self._markdown.append(f"**{_escape(text)}**" if lead else _escape(text))
        self._html.append(f"<p{' class=lead' if lead else ''}>{html.escape(text)}</p>")

    def link(self, text: str, url: str, after: str = "") -> None:
        """A paragraph with a link. url: a trusted address, not escaped in Markdown. after: plain text after the link."""
        self._markdown.append(f"[{_escape(text)}]({url}){_escape(after)}")
        self._html.append(f'<p><a href="{html.escape(url)}">{html.escape(text)}</a>{html.escape(after)}</p>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], total: bool = False, numbers: bool = True) -> None:
        """total: emphasise the last row. numbers: align all columns but the first to the right."""
        aligned = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
        cells = [[_escape(cell) for cell in row] for row in rows]
        if total:
            cells[-1] = [f"**{cell}**" if cell else "" for cell in cells[-1]]
        self._markdown.append("\n".join(f"| {' | '.join(row)} |" for row in [[_escape(cell) for cell in header], aligned, *cells]))
        body = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in header)}</tr>"]
        for index, row in enumerate(rows):
            mark = " class=total" if total and index == len(rows) - 1 else ""
            body.append(f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>")
        self._html.append(f"<table{'' if numbers else ' class=left'}>{''.join(body)}</table>")

    def image(self, name: str, png: bytes, description: str) -> None:
        self.images[name] = png
        self._markdown.append(f"![{_escape(description)}]({quote(name)})")
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        self._html.append(f'<img src="{source}" alt="{html.escape(description)}">')

    def markdown(self) -> str:
        return "\n\n".join(self._markdown) + "\n"

    def html(self) -> str:
        head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        head += f'<meta name="viewport" content="width=device-width"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n' + "\n".join(self._html) + "\n</body>\n</html>\n"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text).replace("\n", " ")
