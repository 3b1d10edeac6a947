"""params.yaml and dvc.yaml of the current folder, read and written by the commands on corpora: `find(params, "kitchen")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text
from pllava.core.params import Corpus, Params
from pllava.core.validation import problems

DVC_FILE = Path("dvc.yaml")


def find(params: Params, name: str, split: str | None = None) -> list[tuple[str, Corpus]]:
    """(split, corpus) of the corpus in each split that has it. Raises PllavaError for an unknown name; it lists the known names."""
    splits = {split: splits_of(params)[split]} if split else splits_of(params)
    entries = [(where, corpus) for where, corpora in splits.items() for corpus in corpora if corpus.name == name]
    if not entries:
        known = sorted({corpus.name for corpora in splits.values() for corpus in corpora})
        raise PllavaError(
            f"no corpus {name!r} in {' or '.join(f'data.{where}' for where in splits)}; there is: {', '.join(known) or 'none'}"
        )
    return entries


def splits_of(params: Params) -> dict[str, list[Corpus]]:
    """{split: its corpora}."""
    return {"train": params.data.train, "validation": params.data.validation}


def read_dvc_yaml() -> str:
    """The text of dvc.yaml. Raises PllavaError when the current folder has none."""
    if not DVC_FILE.exists():
        raise PllavaError(f"{DVC_FILE} is not in {Path.cwd()}. Go to the folder of a project, or make one: pllava init FOLDER")
    return DVC_FILE.read_text()


def validated(text: str, path: Path) -> str:
    """Returns `text`, the new text of params.yaml, when it is valid. Raises PllavaError, which names `path`, when it is not."""
    try:
        load_text(text)
    except ValidationError as error:
        raise PllavaError(
            f"{path} would no longer be valid: {'; '.join(problems(error, Params))}. Add another corpus first: pllava data add"
        ) from None
    return text


def load_text(text: str) -> Params:
    """The settings in the text of a params.yaml. Raises pydantic's ValidationError."""
    values: Any = yaml.safe_load(text)
    return Params.model_validate(values)


def rewrite(path: Path, text: str) -> None:
    """Write the text atomically, unless the file holds it already."""
    if path.read_text() != text:
        atomic_write_text(path, text)
