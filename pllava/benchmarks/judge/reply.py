"""Reads the reply of a judge: `parse("{'pred': 'yes', 'score': 4}", decides=True)` is (True, 4).

A readable reply has exactly one verdict: a dictionary in Python or JSON, alone, in a code fence, or with words around it. Any other reply
raises an error and never scores 0. The caller then asks again.
"""

from __future__ import annotations

import ast
import re
from typing import Any

LONGEST = 2000  # characters; a verdict has about thirty
BEST = 5
FENCE = re.compile(r"\s*```\w*\s*(.*?)\s*```\s*", re.DOTALL)
NUMBER = re.compile(r"\s*\d+(\.\d+)?\s*")
DECISIONS = {"yes": True, "true": True, "no": False, "false": False}
JSON_NAMES = {"true": True, "false": False, "null": None}


class UnreadableReplyError(ValueError):
    """The reply has no readable verdict."""


def parse(reply: str, decides: bool, alone: bool = False) -> tuple[bool, float]:
    """(right, score), with a score from 0 to 5. Raises UnreadableReplyError.

    decides: the reply says whether the answer is right ('pred': 'yes' or 'no'); otherwise a score above 3 is right.
    A score of True or False counts as 1 or 0, as in the published scripts.
    alone: the verdict must be the whole reply. Needed if the answer looks like a verdict, because a judge may repeat the answer.
    """
    if len(reply) > LONGEST:
        raise UnreadableReplyError(f"{len(reply)} characters")
    verdict = _verdict(reply, alone)
    score = _score(verdict.get("score"))
    if score is None:
        raise UnreadableReplyError(f"score {verdict.get('score')!r} is no number from 0 to {BEST}")
    if not decides:
        return score > 3, score
    pred = verdict.get("pred")
    right = DECISIONS.get(str(pred).strip(" \n.!").lower()) if isinstance(pred, bool | str) else None
    if right is None:
        raise UnreadableReplyError(f"pred {pred!r} is neither 'yes' nor 'no'")
    return right, score


def _verdict(reply: str, alone: bool) -> dict[str, Any]:
    """The one verdict in a reply. Raises UnreadableReplyError if there is none, or more than one."""
    fenced = FENCE.fullmatch(reply)
    text = (fenced[1] if fenced else reply).strip()
    whole = _dictionary(text)
    if whole is not None or alone:
        verdicts = [whole]
    else:
        verdicts = [value for value in map(_dictionary, _braced(text)) if value is None or value.keys() & {"pred", "score"}]
    if len(verdicts) != 1 or verdicts[0] is None:
        what = f"{len(verdicts)} verdicts" if len(verdicts) > 1 and None not in verdicts else "no dictionary"
        raise UnreadableReplyError(f"{what}: {reply[:80]!r}")
    return verdicts[0]


def _dictionary(text: str) -> dict[str, Any] | None:
    """The dictionary that `text` is in Python or JSON; no code is run. None if it is no dictionary, or has a key twice."""
    try:
        tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            for name, value in ast.iter_fields(node):
                if isinstance(value, list):
                    setattr(node, name, [_constant(item) for item in value])
                else:
                    setattr(node, name, _constant(value))
        dictionary = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return dictionary if isinstance(dictionary, dict) and len(dictionary) == len(tree.body.keys) else None  # type: ignore[attr-defined]


def _constant(node: Any) -> Any:
    """The Python constant for JSON's true, false and null; other nodes unchanged."""
    return ast.Constant(JSON_NAMES[node.id]) if isinstance(node, ast.Name) and node.id in JSON_NAMES else node


def _braced(text: str) -> list[str]:
    """Every outermost {...} of the text. If a brace is never closed, the last part is the rest of the text."""
    parts, begin, depth, quote, position = [], 0, 0, "", 0
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif depth and character in "'\"":
            quote = character
        elif character == "{":
            begin, depth = (position, 1) if not depth else (begin, depth + 1)
        elif character == "}" and depth:
            depth -= 1
            if not depth:
                parts.append(text[begin : position + 1])
        position += 1
    return [*parts, text[begin:]] if depth else parts


def _score(value: Any) -> float | None:
    """A number, or a number as text, from 0 to BEST; None for anything else."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    return value if isinstance(value, int | float) and 0 <= value <= BEST else None
