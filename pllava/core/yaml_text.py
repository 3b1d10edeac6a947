"""Edits of YAML text that keep comments and layout: `yaml, document = load(text); document["seed"] = 1; text = dump(yaml, document)`."""

from __future__ import annotations

from io import StringIO
from typing import Any

from yaml import SafeLoader, ScalarNode


def load(text: str) -> tuple[Any, Any]:
    """(writer for `dump`, content). The content is a mapping that also holds the comments."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes None as `null`, and quotes what PyYAML would misread."""

    Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    Representer.add_representer(str, _quote_for_pyyaml)
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 20  # long lines are not wrapped
    yaml.indent(mapping=2, sequence=4, offset=2)  # the layout of recipes/
    return yaml, yaml.load(text)


def dump(yaml: Any, document: Any) -> str:
    """The text of an edited document."""
    buffer = StringIO()
    yaml.dump(document, buffer)
    return buffer.getvalue()


def _quote_for_pyyaml(writer: Any, text: str) -> Any:
    """Quote strings that PyYAML (YAML 1.1) would read as another type: `no`, `1:30`. ruamel.yaml (YAML 1.2) writes them without quotes."""
    plain = SafeLoader("").resolve(ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str"
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')
