"""Corpora in params.yaml, and their files among the dependencies of `prepare` in dvc.yaml; comments and layout stay.

text = with_corpus(Path("params.yaml").read_text(), "train", corpus)
"""

from __future__ import annotations

from io import StringIO
from typing import Any

from pllava.core.errors import PllavaError
from pllava.core.params import Corpus

STAGE = "prepare"


def with_corpus(params_text: str, split: str, corpus: Corpus) -> str:
    """params.yaml with one more corpus at the end of data.<split>."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    yaml, document = _load(params_text)
    data = document["data"]
    rows = data.get(split)
    if not rows:
        rows = data[split] = CommentedSeq()
    entry = CommentedMap(corpus.model_dump(mode="json", exclude_defaults=True))
    entry.insert(1, "kind", corpus.kind)  # also when it is the default, as in the recipes
    entry.fa.set_flow_style()
    rows.append(entry)
    if len(rows) > 1:
        _move_trailing_comment(rows)
    return _dump(yaml, document)


def without_corpus(params_text: str, split: str, name: str) -> str:
    """params.yaml without the corpus of that name."""
    yaml, document = _load(params_text)
    data = document["data"]
    rows = data[split]
    position = next(number for number, row in enumerate(rows) if row["name"] == name)
    own = rows.ca.items.get(position)
    below = own[0].value.partition("\n")[2] if own and own[0] else ""  # it belongs to the next key
    last = position == len(rows) - 1
    del rows[position]
    if not rows:
        beside = rows.ca.comment[0].value.rstrip("\n") if rows.ca.comment and rows.ca.comment[0] else ""  # beside the key
        data[split] = _empty()
        if beside or below:
            data.ca.items[split] = [None, None, _comment(f"{beside}\n{below}"), None]
    elif below and last:
        if before := rows.ca.items.get(position - 1):
            before[0].value = before[0].value.rstrip("\n") + "\n" + below
        else:
            rows.ca.items[position - 1] = [_comment("\n" + below), None, None, None]
    return _dump(yaml, document)


def with_dependencies(dvc_text: str, paths: list[str]) -> str:
    """dvc.yaml with the paths among the dependencies of `prepare`, unless a folder above them is there."""
    yaml, document = _load(dvc_text)
    deps = _dependencies(document)
    for path in paths:
        if not any(path == dep or path.startswith(f"{dep}/") for dep in deps):
            deps.append(path)
    return _dump(yaml, document) if deps else dvc_text


def without_dependencies(dvc_text: str, paths: list[str]) -> str:
    yaml, document = _load(dvc_text)
    deps = _dependencies(document)
    for path in paths:
        if path in deps:
            deps.remove(path)
    return _dump(yaml, document)


def _dependencies(document: Any) -> Any:
    try:
        return document["stages"][STAGE]["deps"]
    except KeyError:
        raise PllavaError(f"dvc.yaml has no stage {STAGE} with deps, so nothing would notice that data have changed. Restore it") from None


def _move_trailing_comment(rows: Any) -> None:
    """Empty lines and comments below the list hang on its last entry: they go to the new last one. A comment beside the entry stays."""
    last = len(rows) - 1
    if not (found := rows.ca.items.get(last - 1)) or not found[0]:
        return
    beside, _, below = found[0].value.partition("\n")
    if not below:
        return
    rows.ca.items[last] = [_comment("\n" + below), None, None, None]
    if beside.strip():
        found[0].value = beside + "\n"
    else:
        del rows.ca.items[last - 1]


def _empty() -> Any:
    from ruamel.yaml.comments import CommentedSeq

    rows = CommentedSeq()
    rows.fa.set_flow_style()
    return rows


def _comment(text: str) -> Any:
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    return CommentToken(text, CommentMark(0), None)


def _load(text: str) -> tuple[Any, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """`key: null` stays as it is."""

    Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml, yaml.load(text)


def _dump(yaml: Any, document: Any) -> str:
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()
