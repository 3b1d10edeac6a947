"""The stages of `dvc.yaml` in the order DVC would run them.

The only module that uses DVC's internals: DVC has no public API for its graph, so its version is pinned.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One stage and the names of the stages whose outputs it reads."""

    name: str
    description: str
    needs: tuple[str, ...]


def read_dag(root: Path) -> list[Stage]:
    """The stages of root/dvc.yaml, each after the stages it needs. Raises PllavaError when DVC cannot read dvc.yaml."""
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    from pllava.core.errors import PllavaError

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph  # an edge leads from a stage to one it needs
            order = networkx.lexicographical_topological_sort(graph.reverse(copy=True), key=lambda stage: stage.addressing)
            # Other pipelines of the repository (data/base) and files added by `dvc add` are not part of this one.
            stages = [stage for stage in order if not stage.is_data_source and Path(stage.path) == root.resolve() / "dvc.yaml"]
            return [
                Stage(stage.name, stage.desc or "", tuple(sorted(up.name for up in graph.successors(stage) if up in stages)))
                for stage in stages
            ]
    except DvcException as error:
        cause = f"\n{error.__cause__}" if error.__cause__ else ""
        raise PllavaError(f"DVC cannot read {root / 'dvc.yaml'}: {error}{cause}\nLook with: dvc dag") from None
