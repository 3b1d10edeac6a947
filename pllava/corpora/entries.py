"""Edits of YAML text that keep comments and layout: corpora in params.yaml, and the dependencies of `prepare` in dvc.yaml.

text = with_corpus(Path("params.yaml").read_text(), "train", corpus)
"""

from __future__ import annotations

from typing import Any

from pllava.core.errors import PllavaError
from pllava.core.params import Corpus
from pllava.core.yaml_text import dump, load

STAGE = "prepare"


def with_corpus(params_text: str, split: str, corpus: Corpus) -> str:
    """The text of params.yaml with the corpus added at the end of data.<split>."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    yaml, document = load(params_text)
    data = document["data"]
    rows = data.get(split)
    if not rows:
        rows = data[split] = CommentedSeq()
    entry = CommentedMap(corpus.model_dump(mode="json", exclude_defaults=True))
    entry.insert(1, "kind", corpus.kind)  # always written, as in the recipes
    entry.fa.set_flow_style()
    rows.append(entry)
    if len(rows) > 1:
        _move_trailing_comment(rows)
    return dump(yaml, document)


def without_corpus(params_text: str, split: str, name: str) -> str:
    """The text of params.yaml without the corpus of this name in data.<split>."""
    yaml, document = load(params_text)
    data = document["data"]
    rows = data[split]
    position = next(number for number, row in enumerate(rows) if row["name"] == name)
    comment = rows.ca.items.get(position)
    below = comment[0].value.partition("\n")[2] if comment and comment[0] else ""  # the lines below the entry belong to the next key
    last = position == len(rows) - 1
    del rows[position]
    if not rows:
        beside = rows.ca.comment[0].value.rstrip("\n") if rows.ca.comment and rows.ca.comment[0] else ""  # comment on the line of the key
        data[split] = _empty_list()
        if beside or below:
            data.ca.items[split] = [None, None, _comment(f"{beside}\n{below}"), None]
    elif below and last:
        if previous := rows.ca.items.get(position - 1):
            previous[0].value = previous[0].value.rstrip("\n") + "\n" + below
        else:
            rows.ca.items[position - 1] = [_comment("\n" + below), None, None, None]
    return dump(yaml, document)


def with_benchmark(params_text: str, name: str, settings: dict[str, Any]) -> str:
    """The text of params.yaml with the benchmark added at the beginning of evaluate.benchmarks."""
    from ruamel.yaml.comments import CommentedMap

    yaml, document = load(params_text)
    evaluate = document["evaluate"]
    if not evaluate.get("benchmarks"):
        evaluate["benchmarks"] = CommentedMap()
    entry = CommentedMap(settings)
    entry.fa.set_flow_style()
    evaluate["benchmarks"].insert(0, name, entry)  # at the end, it would stand below the empty line before the next section
    return dump(yaml, document)


def without_benchmark(params_text: str, name: str) -> str:
    """The text of params.yaml without the benchmark."""
    yaml, document = load(params_text)
    benchmarks = document["evaluate"]["benchmarks"]
    del benchmarks[name]
    if not benchmarks:
        benchmarks.fa.set_flow_style()
        document["evaluate"]["benchmarks"] = benchmarks
    return dump(yaml, document)


def with_dependencies(dvc_text: str, paths: list[str]) -> str:
    """The text of dvc.yaml with the paths as dependencies of `prepare`. A path below a listed folder is not added."""
    yaml, document = load(dvc_text)
    deps = _dependencies(document)
    for path in paths:
        if not any(path == dep or path.startswith(f"{dep}/") for dep in deps):
            deps.append(path)
    return dump(yaml, document) if deps else dvc_text


def without_dependencies(dvc_text: str, paths: list[str]) -> str:
    """The text of dvc.yaml without the paths among the dependencies of `prepare`."""
    yaml, document = load(dvc_text)
    deps = _dependencies(document)
    for path in paths:
        if path in deps:
            deps.remove(path)
    return dump(yaml, document)


def _dependencies(document: Any) -> Any:
    try:
        return document["stages"][STAGE]["deps"]
    except KeyError:
        raise PllavaError(f"dvc.yaml has no stage {STAGE} with deps, so nothing would notice that data have changed. Restore it") from None


def _move_trailing_comment(rows: Any) -> None:
    """Move empty lines and comments below the list to the new last entry: ruamel.yaml keeps them with the last entry.

    A comment on the entry's own line stays with the entry.
    """
    last = len(rows) - 1
    if not (comment := rows.ca.items.get(last - 1)) or not comment[0]:
        return
    beside, _, below = comment[0].value.partition("\n")
    if not below:
        return
    rows.ca.items[last] = [_comment("\n" + below), None, None, None]
    if beside.strip():
        comment[0].value = beside + "\n"
    else:
        del rows.ca.items[last - 1]


def _empty_list() -> Any:
    from ruamel.yaml.comments import CommentedSeq

    rows = CommentedSeq()
    rows.fa.set_flow_style()
    return rows


def _comment(text: str) -> Any:
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    return CommentToken(text, CommentMark(0), None)
