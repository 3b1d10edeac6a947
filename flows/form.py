"""Types of flow parameters, as Prefect's run form shows them: titles, bounds and drop-down lists. The server refuses other values."""

from typing import Annotated, Any

from pydantic import Field

from flows import ROOT
from pllava.core import recipes
from pllava.core.errors import PllavaError
from pllava.core.params import load_params

AS_IT_STANDS = "params.yaml as it stands"
ALL = "all"

RECIPES = recipes.names(ROOT)
try:
    BENCHMARKS = list(load_params(ROOT / "params.yaml").evaluate.benchmarks)
except PllavaError:  # reported by the flow when it runs; an import cannot report it well
    BENCHMARKS = ["mvbench"]


def titled(title: str, **schema: Any) -> Any:
    """A pydantic field with the title that the form shows. Without a title, Prefect shows the parameter's name."""
    return Field(json_schema_extra={"title": title, **schema})


Recipe = Annotated[str, titled("Recipe", enum=[AS_IT_STANDS, *RECIPES])]
Benchmark = Annotated[str, titled("Benchmark", enum=[ALL, *BENCHMARKS])]
Deploy = Annotated[bool, titled("Serve the champion")]
Version = Annotated[int | None, Field(ge=1), titled("Version of the model")]
