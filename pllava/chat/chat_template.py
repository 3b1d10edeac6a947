"""A base's own `chat_template` as a conversation template: `load_template("chat", base).prompt_for("What happens?")`.

transformers renders the jinja text in its sandbox. A new family of bases therefore needs no YAML file. Probes with known words show where
the template writes the video, its roles and its separators, which training and the checks of users' words need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import Field

from pllava.chat.yaml_template import PLACEHOLDER, SPECIAL, Message, Template
from pllava.core.errors import PllavaError
from pllava.core.files import read_json

FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
ASK, REPLY, NEXT = "firstquestion", "firstanswer", "secondquestion"  # words of the probes


class ChatTemplate(Template):
    """A template that jinja writes. Roles and separators are what the probes found."""

    jinja: str
    tokens: dict[str, str] = Field(description="special tokens by name, as transformers gives them to the jinja text")
    parts: str | None = Field(description="kind of the part that stands for the video: video or image. None: the content is one text")
    writes_bos: bool = Field(description="the tokenizer adds the begin token, so the one that jinja writes is taken off")
    forbidden: tuple[str, ...] = Field(description="texts that a user's words must not hold")
    lead: str = Field(description="white space that this template writes between the role and an answer")

    @cached_property
    def markers(self) -> tuple[str, ...]:
        return tuple(sorted({*self.forbidden, *SPECIAL}, key=lambda marker: (-len(marker), marker)))

    @property
    def end_token(self) -> str | None:
        """The special token that closes an answer."""
        return next((token for token in self.markers if self.sep[1].strip().startswith(token)), None)

    def write(self, messages: Sequence[Message], system: str | None = None) -> str:
        messages = list(messages)
        reply = messages.pop()[1] if messages and messages[-1][0] == self.roles[1] else ""  # an answer that is begun
        first = [] if system is None else [{"role": "system", "content": self._content(system)}]
        names = {self.roles[0]: "user", self.roles[1]: "assistant"}
        return self._render([*first, *({"role": names[role], "content": self._content(text)} for role, text in messages)]) + reply

    def training_pieces(self, qa: Sequence[Mapping[str, str]], media: bool = True) -> list[tuple[str, bool]]:
        """(text, supervised) of one sample, in order. Each answer follows what the model reads at inference, and closes with its separator.

        An instruction stands before the first question. Raises PllavaError when earlier turns change as a conversation goes on.
        """
        pieces: list[tuple[str, bool]] = []
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(qa):
            text = "\n".join(part for part in ((qa[0].get("i") or "") if number == 0 else "", turn["q"]) if part)
            if media and number == 0:
                text = self.mm_token + self.mm_join + text
            before = self._render(messages, answer=False) if messages else ""
            messages.append({"role": "user", "content": self._content(text)})
            prompt = self._render(messages)
            if not prompt.startswith(before):
                raise PllavaError(
                    "this chat template changes earlier turns once a conversation goes on: they can't be trained in one text. "
                    "Set train.turns: independent"
                )
            pieces += [(prompt[len(before) :], False), (self.lead + turn["a"] + self.sep[1], True)]
            messages.append({"role": "assistant", "content": self._content(turn["a"])})
        return pieces

    def _content(self, text: str) -> Any:
        """The content of a message: its text, or the parts of it. The video, if there is one, is the first part."""
        if self.parts is None:
            return text
        words = text.removeprefix(PLACEHOLDER) if text.startswith(PLACEHOLDER) else text.removesuffix(PLACEHOLDER)
        video = [{"type": self.parts}] if words != text else []
        return [*video, {"type": "text", "text": words}] if words or not video else video

    def _render(self, messages: list[dict[str, Any]], answer: bool = True) -> str:
        """The text of a conversation; `answer`: the model's turn is next."""
        text = render_jinja(self.jinja, messages, self.tokens, answer)
        if self.parts is not None and PLACEHOLDER not in text:
            text = text.replace("<video>", PLACEHOLDER, 1)
        return text.removeprefix(self.tokens.get("bos_token", "")) if self.writes_bos else text


def render_jinja(jinja: str, messages: list[dict[str, Any]], tokens: Mapping[str, str], answer: bool) -> str:
    """What transformers renders, in its sandbox. Raises PllavaError with the template's own sentence."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered: Any = render_jinja_template([messages], chat_template=jinja, add_generation_prompt=answer, **tokens)
    except Exception as error:  # of any class: the jinja text is the base's
        raise PllavaError(f"the base's chat template does not render: {error}. Give another: --template NAME or a .yaml file") from None
    return str(rendered[0][0])


def jinja_of(base: Path) -> str | None:
    """The jinja text in a base's folder, from the first of FILES that has one. Raises PllavaError for a file that is not readable."""
    if (file := base / FILES[0]).is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for name in FILES[1:]:
        values = read_json(base / name) if (base / name).is_file() else {}
        if jinja := default_of(values.get("chat_template") if isinstance(values, Mapping) else None):
            return jinja
    return None


def default_of(jinja: Any) -> str | None:
    """One jinja text of what a tokenizer or processor keeps: a text, a mapping of names, or a list of named texts."""
    if isinstance(jinja, list):
        jinja = {entry.get("name"): entry.get("template") for entry in jinja if isinstance(entry, Mapping)}
    if isinstance(jinja, Mapping):
        jinja = jinja.get("default")
    return jinja if isinstance(jinja, str) and jinja else None


def chat_template_of(base: str | Path) -> ChatTemplate:
    """The chat template of a base: a folder or a hub id. Raises PllavaError if it has none, or one that writes no video."""
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import cached_file

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
        files = [cached_file(str(base), name, _raise_exceptions_for_missing_entries=False) for name in FILES]
    except Exception as error:  # OSError, ValueError, and plain Exception from the Rust tokenizer
        raise PllavaError(f"{base}: the tokenizer's files do not load: {error}. Fetch the folder again") from error
    folder = next((Path(file).parent for file in files if file), None)
    return chat_template(tokenizer, jinja_of(folder) if folder else None, str(base))


def chat_template(tokenizer: Any, jinja: str | None, name: str) -> ChatTemplate:
    """The template of a jinja text and a tokenizer. name: of the base, for errors.

    Raises PllavaError if there is no jinja text, or if a user's message comes out without the video or the question.
    """
    if not jinja:
        raise PllavaError(f"{name}: no chat template in here. Give a conversation template: model.template in params.yaml, or --template")
    tokens = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    added = {str(token) for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()) if str(token).strip()}
    ids = tokenizer("x")["input_ids"]
    adds_bos = bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    fields: dict[str, Any] = {"jinja": jinja, "tokens": tokens, "writes_bos": adds_bos, "forbidden": (), "lead": ""}
    fields |= {"mm_token": PLACEHOLDER, "roles": ("user", "assistant"), "sep": ("", "")}
    refusals = []
    for parts in ("video", "image", None):
        probe = ChatTemplate(**fields, parts=parts, mm_join="" if parts else "\n")
        try:
            prompt = probe.write(probe.messages(ASK))
        except PllavaError as error:
            refusals.append(error)
            continue
        if prompt.count(PLACEHOLDER) == 1 and prompt.count(ASK) == 1:
            return _with_roles(probe, prompt, added, tokenizer.eos_token or "")
    if len(refusals) == 3:
        raise PllavaError(f"{name}: {refusals[-1]}")
    raise PllavaError(
        f"{name}: its chat template never mentions the video: a user's message comes out without {PLACEHOLDER} or without its words. "
        "Give another conversation template: --template NAME or a .yaml file"
    )


def _with_roles(probe: ChatTemplate, prompt: str, added: set[str], eos: str) -> ChatTemplate:
    """`probe` with roles, separators and markers, read off conversations of known words."""
    user, assistant = probe.roles
    after = prompt.index(PLACEHOLDER) > prompt.index(ASK)
    tail = prompt.partition(PLACEHOLDER if after else ASK)[2]
    before = prompt[: min(prompt.index(PLACEHOLDER), prompt.index(ASK))]
    ask = {"role": "user", "content": probe._content(PLACEHOLDER + probe.mm_join + ASK)}
    open_question = probe._render([ask], answer=False)
    turns = [(user, PLACEHOLDER + probe.mm_join + ASK), (assistant, REPLY), (user, NEXT)]
    conversation = probe.write(turns)
    if conversation.count(REPLY) != 1 or conversation.count(NEXT) != 1:
        raise PllavaError("the base's chat template loses turns of a conversation. Give another: --template NAME or a .yaml file")
    closing = probe._render([ask, {"role": "assistant", "content": probe._content(REPLY)}], answer=False).partition(REPLY)[2]
    role = prompt.removeprefix(open_question) if prompt.startswith(open_question) else tail
    role = role if role.strip() else tail  # "[/INST]" closes the question and opens the answer
    again = conversation[conversation.index(REPLY) + len(REPLY) : conversation.index(NEXT)]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(before.rstrip()), reversed(again.rstrip()), strict=False))
    roles = ("".join(letter for letter, _ in same)[::-1].removeprefix(closing).strip(), role.strip())
    between = conversation[: conversation.index(REPLY)]
    lead = between.removeprefix(prompt) if between.startswith(prompt) else ""
    # A model learns to stop by a token after its answer. Some templates, as LLaVA 1.5's, write only a space there.
    closing = closing if any(token in closing for token in added) else eos
    values = {
        "roles": (roles[0] or user, role if role.strip() else assistant),
        "sep": (tail.removesuffix(role), closing),
        "mm_style": "MM_AFTER" if after else "MM_INTERLEAF",
        "forbidden": tuple(sorted({*added, *(text for text in roles if text)})),
        "lead": lead if not lead.strip() else "",
    }
    return ChatTemplate.model_validate(probe.model_dump() | values)
