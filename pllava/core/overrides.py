"""Settings that one run has otherwise: `Overrides` is `Params` with nothing required, made from it, so that no key is described twice.

A form is drawn from its JSON schema and a server checks values against it: types, bounds and choices are those of `pllava.core.params`, and
an unknown key is refused by name. What no schema can say (pooling_shape fits num_frames) is checked when the whole is put together.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, create_model, model_serializer
from yaml import SafeLoader, ScalarNode

from pllava.core import recipes
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text
from pllava.core.params import Params, load_params

NOT_OF_A_RUN = ("deploy", "registry", "gate", "run")  # where a model serves, is recorded and judged, and patience: no matter of one run


class _Partial(BaseModel):
    """A section of which any part may be left out: what was not set is neither shown as a default nor sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer
    def _only_what_was_set(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


def _as_in_the_file(schema: dict[str, Any]) -> None:
    for name, field in schema.get("properties", {}).items():
        field.pop("default", None)
        field["title"] = name
        if field.get("type") == "boolean":  # shown as a switch, which says false when nobody touched it; a drop-down can be left empty
            del field["type"]
            field["enum"] = [True, False]
        if {"type": "boolean"} in field.get("anyOf", ()) and all(
            kind.get("type") == "boolean" or "const" in kind for kind in field["anyOf"]
        ):
            field["enum"] = [True, False, *(kind["const"] for kind in field.pop("anyOf") if "const" in kind)]  # one drop-down


def _partial(section: type[BaseModel], name: str, leave_out: tuple[str, ...] = ()) -> type[BaseModel]:
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
    model.model_config["json_schema_extra"] = _as_in_the_file
    return cast(type[BaseModel], model)


if TYPE_CHECKING:
    Overrides = _Partial
else:
    Overrides = _partial(Params, "Overrides", NOT_OF_A_RUN)


def given(overrides: BaseModel) -> dict[str, Any]:
    """Only what was set, nested as in params.yaml; {} when nothing was."""

    def pruned(values: dict[str, Any]) -> dict[str, Any]:
        inner = {key: pruned(value) if isinstance(value, dict) else value for key, value in values.items()}
        return {key: value for key, value in inner.items() if value != {}}

    return pruned(overrides.model_dump(mode="json"))


def compose(recipe: str | None, changes: dict[str, Any], target: Path) -> Params:
    """Write `target` (a params.yaml): the recipe, or what `target` holds when it is None, with the changes; comments stay.

    Raises PllavaError that names every wrong key, and leaves `target` alone, when the whole is not valid.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096  # no line is broken
    yaml.indent(mapping=2, sequence=4, offset=2)  # as in recipes/, null included
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.representer.add_representer(str, _as_pyyaml_reads)
    yaml.preserve_quotes = True
    text = recipes.read(recipe) if recipe else target.read_text()
    if changes:
        whole = yaml.load(text)
        merge(whole, changes)
        written = StringIO()
        yaml.dump(whole, written)
        text = written.getvalue()
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


def _as_pyyaml_reads(writer: Any, text: str) -> Any:
    """`no` and `1:30` are strings to ruamel.yaml (YAML 1.2) and something else to PyYAML (1.1), which reads params.yaml: in quotes."""
    plain = SafeLoader("").resolve(ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str"
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def merge(base: MutableMapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Put nested changes into `base`, key by key in sections; lists and values are replaced."""
    for key, value in changes.items():
        below = base.get(key)
        if isinstance(below, MutableMapping) and isinstance(value, Mapping):
            merge(below, value)
        else:
            base[key] = value


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.lora.r": 8} -> {"train": {"lora": {"r": 8}}}."""
    whole: dict[str, Any] = {}
    for dotted, value in settings.items():
        *sections, last = dotted.split(".")
        merge(whole, _under(sections, {last: value}))
    return whole


def applied(params: Params, settings: Mapping[str, Any]) -> Params:
    """Params with values put at dotted keys, checked as a whole. Raises ValidationError, with the keys and values that do not fit."""
    values = params.model_dump(mode="json")
    merge(values, nested(settings))
    return Params.model_validate(values)


def _under(sections: Sequence[str], value: dict[str, Any]) -> dict[str, Any]:
    for section in reversed(sections):
        value = {section: value}
    return value
