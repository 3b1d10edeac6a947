"""The files of a project that the package brings along: recipes, flows, dvc.yaml, the tiny base. `folder() / "recipes/tiny.yaml"`.

In a checkout they lie beside the package, where they are edited. setup.py copies them to pllava/project/ of an installed package.
"""

from __future__ import annotations

from pathlib import Path

RECIPES = ("recipes/*.yaml", "recipes/*/*")  # patterns, relative to the folder
PROJECT = (  # what `pllava init` copies as it is
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
    """pllava/project of an installed package; the checkout, where pllava runs from one."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "project"
    return installed if installed.is_dir() else package.parent


def locate(path: Path) -> Path:
    """The file or folder itself where it is there; else the one of that name that the package brings, if it brings one."""
    shipped = folder() / path
    return shipped if not path.exists() and shipped.exists() else path
