"""A document in two forms: Markdown beside its image files, and one HTML file with embedded images and no outside requests."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from urllib.parse import quote

from markdown_it import MarkdownIt

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 900px; margin: 2.5rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .6rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid #e4e4e4; vertical-align: top; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
"""
# the browser refuses outside requests even if the document contained one
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Document:
    """Headings, paragraphs, tables and images, in order. All text is escaped, so a model's answer can't become markup."""

    def __init__(self, title: str):
        self.title = title
        self._blocks: list[str] = []
        self.images: dict[str, bytes] = {}
        self.heading(title, 1)

    def heading(self, text: str, level: int = 2) -> None:
        self._blocks.append(f"{'#' * level} {_escape(text)}")

    def text(self, text: str, lead: bool = False) -> None:
        self._blocks.append(f"**{_escape(text)}**" if lead else _escape(text))

    def link(self, text: str, url: str, after: str = "") -> None:
        """A paragraph with a link. url: a trusted address, not escaped. after: plain text after the link."""
        self._blocks.append(f"[{_escape(text)}]({url}){_escape(after)}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], total: bool = False, numbers: bool = True) -> None:
        """total: emphasise the last row. numbers: align all columns but the first to the right."""
        aligned = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
        cells = [[_escape(cell) for cell in row] for row in rows]
        if total:
            cells[-1] = [f"**{cell}**" if cell else "" for cell in cells[-1]]
        self._blocks.append("\n".join(f"| {' | '.join(row)} |" for row in [[_escape(cell) for cell in header], aligned, *cells]))

    def image(self, name: str, png: bytes, description: str) -> None:
        self.images[name] = png
        self._blocks.append(f"![{_escape(description)}]({quote(name)})")

    def markdown(self) -> str:
        return "\n\n".join(self._blocks) + "\n"

    def html(self) -> str:
        body = MarkdownIt("commonmark", {"html": False}).enable("table").render(self.markdown())
        for name, png in self.images.items():
            body = body.replace(f'src="{quote(name)}"', f'src="data:image/png;base64,{base64.b64encode(png).decode()}"')
        head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        head += f'<meta name="viewport" content="width=device-width"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}</body>\n</html>\n'


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]&])", r"\\\1", text).replace("\n", " ")
