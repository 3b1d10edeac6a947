"""Parameters as the run form shows them: titles, bounds, and drop-downs for what exists (the server refuses other values)."""

from typing import Annotated, Any

import yaml
from pydantic import Field

from flows import ROOT

AS_IT_STANDS = "params.yaml as it stands"
ALL = "all"

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
BENCHMARKS = list(yaml.safe_load((ROOT / "params.yaml").read_text())["evaluate"]["benchmarks"])


def titled(title: str, **schema: Any) -> Any:
    """What the form says. Prefect sets a parameter's title to its name, unless the schema itself has one."""
    return Field(json_schema_extra={"title": title, **schema})


Recipe = Annotated[str, titled("Recipe", enum=[AS_IT_STANDS, *RECIPES])]
Benchmark = Annotated[str, titled("Benchmark", enum=[ALL, *BENCHMARKS])]
Deploy = Annotated[bool, titled("Serve the champion")]
Version = Annotated[int | None, Field(ge=1), titled("Version of the model")]
