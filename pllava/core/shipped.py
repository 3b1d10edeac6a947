"""The project files that the package holds: recipes, flows, dvc.yaml, the tiny base. `folder() / "recipes/tiny.yaml"`.

In a checkout they lie beside the package. setup.py copies them to pllava/project/ of an installed package.
"""

from __future__ import annotations

from pathlib import Path

RECIPES = ("recipes/*.yaml", "recipes/*/*")  # patterns, relative to the folder
PROJECT = (  # files that `pllava init` copies unchanged
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "data/.gitignore",
    "data/raw/.gitignore",
    "data/base/tiny-llava/*",
    "flows/*.py",
    "prefect.yaml",
)
FILES = (*RECIPES, *PROJECT, "dvc.yaml")


def folder() -> Path:
    """The folder of the project files: pllava/project in an installed package, the repository root in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "project"
    return installed if installed.is_dir() else package.parent


def locate(path: Path) -> Path:
    """`path` when it exists; else the package's file or folder of that name; else `path`."""
    shipped = folder() / path
    return shipped if not path.exists() and shipped.exists() else path
