"""pydantic's errors as sentences: `problems(error, Params)` names each key, its value, and the nearest known key."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem pydantic found: "train.lora.r: input should be greater than 0, found 0".

    model: the class that was validated. For an unknown key, the line names the nearest key of its section.
    """
    return [_explain(item, model) for item in error.errors(include_url=False)]


def _explain(item: Any, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(top)"
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"][:-1], model)
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if item["type"] == "value_error":  # raised by our own validators: the message names the value
        return f"{where}: {item['ctx']['error']}"
    value = "" if item["type"] == "missing" else f", found {item['input']!r}"
    return f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}{value}"


def _known_keys(loc: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Field names of the section at location `loc`, sorted."""
    section: Any = model
    for part in loc:
        field = section.model_fields.get(str(part)) if isinstance(section, type) and issubclass(section, BaseModel) else None
        annotation = field.annotation if field else section
        section = _section_in(annotation) or section
    return sorted(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic class in a type annotation such as `list[Corpus]`; None when it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if section := _section_in(argument):
            return section
    return None
