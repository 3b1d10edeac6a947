"""Changes of settings for one run. The class `Overrides` is made from `Params`: the same keys, and every key is optional.

Prefect draws a form from its JSON schema, and checks values against the schema. Types, bounds and choices come from `pllava.core.params`.
An unknown key is refused by name. Rules over several keys (pooling_shape fits num_frames) are checked by `compose`, on the merged settings.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, create_model, model_serializer

from pllava.core import recipes
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text
from pllava.core.params import Params, load_params
from pllava.core.yaml_text import dump, load

NOT_OF_A_RUN = ("deploy", "registry", "gate", "run")  # sections that one run cannot change


class _Partial(BaseModel):
    """A section with optional keys. Only keys that were set are serialised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer
    def _only_what_was_set(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


def _shape_form(schema: dict[str, Any]) -> None:
    """Edit a JSON schema for the form: fields are titled by their keys, have no default, and a boolean is a drop-down."""
    for name, field in schema.get("properties", {}).items():
        field.pop("default", None)
        field["title"] = name
        if field.get("type") == "boolean":  # shown as a switch, which sends false when it is not touched; a drop-down can stay empty
            del field["type"]
            field["enum"] = [True, False]
        if {"type": "boolean"} in field.get("anyOf", ()) and all(
            kind.get("type") == "boolean" or "const" in kind for kind in field["anyOf"]
        ):
            field["enum"] = [True, False, *(kind["const"] for kind in field.pop("anyOf") if "const" in kind)]  # one drop-down


def _partial(section: type[BaseModel], name: str, leave_out: tuple[str, ...] = ()) -> type[BaseModel]:
    """A class with the fields of `section`, all optional, in sections below it too."""
    fields: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        kind: Any = field.annotation
        if key in leave_out:
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner = _partial(kind, f"{kind.__name__}Overrides")
            fields[key] = (inner, Field(default_factory=inner))
        else:
            fields[key] = (Annotated[(kind, Field(description=field.description), *field.metadata)], None)
    model = create_model(name, __base__=_Partial, __doc__="Left empty: as in the recipe.", **fields)
    model.model_config["json_schema_extra"] = _shape_form
    return cast(type[BaseModel], model)


if TYPE_CHECKING:
    Overrides = _Partial
else:
    Overrides = _partial(Params, "Overrides", NOT_OF_A_RUN)


def set_values(overrides: BaseModel) -> dict[str, Any]:
    """The values that were set, nested as in params.yaml; {} when none was set."""

    def pruned(values: dict[str, Any]) -> dict[str, Any]:
        inner = {key: pruned(value) if isinstance(value, dict) else value for key, value in values.items()}
        return {key: value for key, value in inner.items() if value != {}}

    return pruned(overrides.model_dump(mode="json"))


def compose(recipe: str | None, changes: dict[str, Any], target: Path) -> Params:
    """Write the recipe with `changes` to `target` (a params.yaml); returns the settings. Comments stay.

    recipe: its name; None: change the settings that `target` holds now.
    Raises PllavaError that names every wrong key when the merged settings are not valid. `target` then stays as it was.
    """
    text = recipes.read(recipe) if recipe else target.read_text()
    if changes:
        yaml, document = load(text)
        merge(document, changes)
        text = dump(yaml, document)
    trial = target.with_name(f".{target.name}.trial")
    atomic_write_text(trial, text)
    try:
        params = load_params(trial)
    except PllavaError as error:
        raise PllavaError(str(error).replace(str(trial), "the settings of this run", 1)) from None
    finally:
        trial.unlink(missing_ok=True)
    atomic_write_text(target, text)
    return params


def merge(base: MutableMapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Put nested changes into `base`, key by key in sections; lists and values are replaced."""
    for key, value in changes.items():
        section = base.get(key)
        if isinstance(section, MutableMapping) and isinstance(value, Mapping):
            merge(section, value)
        else:
            base[key] = value


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.lora.r": 8} -> {"train": {"lora": {"r": 8}}}."""
    values: dict[str, Any] = {}
    for dotted, value in settings.items():
        *sections, last = dotted.split(".")
        merge(values, _under(sections, {last: value}))
    return values


def applied(params: Params, settings: Mapping[str, Any]) -> Params:
    """A copy of `params` with the values of dotted keys changed. Raises pydantic's ValidationError where a value is not valid."""
    values = params.model_dump(mode="json")
    merge(values, nested(settings))
    return Params.model_validate(values)


def _under(sections: Sequence[str], value: dict[str, Any]) -> dict[str, Any]:
    """(["train", "lora"], {"r": 8}) -> {"train": {"lora": {"r": 8}}}."""
    for section in reversed(sections):
        value = {section: value}
    return value
