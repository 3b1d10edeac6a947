"""params.yaml and dvc.yaml of the current folder, as the commands on corpora need them: `find(params, "kitchen")`."""

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
    """(split, corpus) of every split that has the name. Raises PllavaError that lists the names there are."""
    splits = {split: splits_of(params)[split]} if split else splits_of(params)
    found = [(where, corpus) for where, corpora in splits.items() for corpus in corpora if corpus.name == name]
    if not found:
        known = sorted({corpus.name for corpora in splits.values() for corpus in corpora})
        raise PllavaError(
            f"no corpus {name!r} in {' or '.join(f'data.{where}' for where in splits)}; there is: {', '.join(known) or 'none'}"
        )
    return found


def splits_of(params: Params) -> dict[str, list[Corpus]]:
    return {"train": params.data.train, "validation": params.data.validation}


def read_dvc_yaml() -> str:
    if not DVC_FILE.exists():
        raise PllavaError(f"{DVC_FILE} is not in {Path.cwd()}. Go to the folder of a project, or make one: pllava init FOLDER")
    return DVC_FILE.read_text()


def validated(text: str, path: Path) -> str:
    """The text of params.yaml, if it is valid."""
    try:
        load_text(text)
    except ValidationError as error:
        raise PllavaError(
            f"{path} would no longer be valid: {'; '.join(problems(error, Params))}. Add another corpus first: pllava data add"
        ) from None
    return text


def load_text(text: str) -> Params:
    values: Any = yaml.safe_load(text)
    return Params.model_validate(values)


def rewrite(path: Path, text: str) -> None:
    if path.read_text() != text:
        atomic_write_text(path, text)
