"""Conversation templates by name: `load_template("vicuna").prompt_for("What happens?")`.

The shipped templates are `templates/*.yaml`; any file with the same keys works too. "chat" is the template that a base brings itself.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import ValidationError

from pllava.chat.chat_template import chat_template_of
from pllava.chat.yaml_template import PLACEHOLDER, Message, Template, to_messages
from pllava.core.errors import PllavaError
from pllava.core.validation import problems

__all__ = ["PLACEHOLDER", "Message", "Template", "load_template", "template_for", "to_messages"]

FOLDER = Path(__file__).parent / "templates"
CHAT = "chat"  # name of the template that a base brings itself
AUTO = "auto"  # CHAT where the base has a chat template, else a recorded one
PUBLISHED = re.compile(r"pllava-\d+b|llava-v1\.6-(vicuna|34b)", re.IGNORECASE)  # bases with a recorded template


def load_template(name: str | Path, base: str | Path | None = None) -> Template:
    """A shipped template by name, a YAML file, or "chat": the chat template of `base`, a folder or a hub id.

    Raises PllavaError: unknown name, bad YAML, missing or unknown keys, a base without a chat template.
    """
    if str(name) == CHAT and base is not None:
        return chat_template_of(base)
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        own = f"; {CHAT} is the base's own" if str(name) != CHAT else ""
        raise PllavaError(f"no conversation template {str(name)!r}. Shipped: {known}; or give the path of a .yaml file{own}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        template = Template.model_validate(values)
    except yaml.YAMLError as error:
        raise PllavaError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        raise PllavaError(f"{path} is no conversation template: {'; '.join(problems(error, Template))}") from None
    if template.mm_token.count(PLACEHOLDER) != 1:
        raise PllavaError(f"{path}: mm_token is {template.mm_token!r}; it must hold {PLACEHOLDER} once")
    return template


def template_for(base: str, has_chat_template: bool) -> str:
    """The name of the template of a base: recorded for the published models ("yi" for the 34B, which is built on Yi), else its own."""
    if has_chat_template and not PUBLISHED.search(base):
        return CHAT
    return "yi" if "34b" in base.lower() else "vicuna"
