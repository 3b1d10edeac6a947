"""MVBench's multiple choice: the prompt lists options (A), (B), ..., and the first word of the reply must name the right letter.

format_question("Which way?", ["left", "right"])   # "Question: Which way?\\nOptions:\\n(A) left\\n(B) right"
letter_answer("right", ["left", "right"])          # "(B) right"
score("(B) right", "(B) right")                    # True
"""

from __future__ import annotations

from collections.abc import Sequence

from pllava.core.errors import PllavaError

LETTERS = "abcdefg"  # MVBench has at most seven options


def format_question(question: str, candidates: Sequence[str]) -> str:
    """The question with its lettered options, as the benchmark's script writes it (white space at the end is stripped)."""
    options = "".join(f"({chr(ord('A') + i)}) {candidate}\n" for i, candidate in enumerate(candidates))
    return f"Question: {question}\nOptions:\n{options}".rstrip()


def letter_answer(answer: str, candidates: Sequence[str]) -> str:
    """The answer with its letter: the last one if several options are equal; "@" if the answer is no option, which no reply matches."""
    index = max((i for i, candidate in enumerate(candidates) if candidate == answer), default=-1)
    return f"({chr(ord('A') + index)}) {answer}"


def score(prediction: str, answer: str) -> bool:
    """Whether the first word of the reply names the letter of `answer`, which is "(B) right".

    The published rule: words end at a space; case and a closing full stop are ignored. The first word must hold one of the letters a-g,
    and one of first word and "(b)" must be contained in the other. So "B", "(B)", "b." and "(B)/(C)" match "(B) ...", "Option B" does not.
    Raises PllavaError for an answer without text after its letter.
    """
    reply, _, _ = prediction.lower().partition(" ")
    letter, _, content = answer.lower().partition(" ")
    if not content:
        raise PllavaError(f"the answer {answer!r} of a question has a letter but no text; '(A) text' is needed. Mend the annotation")
    reply = reply.removesuffix(".")
    return any(option in reply for option in LETTERS) and (reply in letter or letter in reply)
