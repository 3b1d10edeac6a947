"""The name and the description of a training's run in MLflow: its differences from its starting point, its data, and links."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.core import git, recipes, shipped
from pllava.core.errors import PllavaError
from pllava.core.params import PARAMS_FILE, Params
from pllava.tracking.provenance import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME, NOTE = "mlflow.runName", "mlflow.note.content"  # tags that MLflow's pages show
SHOWN = 4  # differences in a name
LONGEST = 30  # characters of a value in a name
LINKS = "PLLAVA_LINKS"  # environment variable: JSON, {"Prefect run": "http://..."}, set by the flow that runs the stage
NO_WEIGHTS = ("run.", "registry.", "deploy.")  # settings that change nothing in the run


def describe(root: Path, params: Params, tags: Mapping[str, str]) -> dict[str, str]:
    """The tags NAME and NOTE of a training in `root`. tags: those of `code_tags` and `corpus_tags`."""
    start, changes = differences(root, params)
    name = _short(changes) or f"as {start}"
    train, lora = params.train, params.train.lora
    length = f"{train.steps} steps" if train.steps else f"{train.epochs:g} epoch(s)"
    pooled = " x ".join(map(str, params.model.pooling_shape))
    lines = [
        f"LoRA r {lora.r} on `{params.model.base}`: {length} of {train.batch_size} clips, "
        f"{params.model.num_frames} frames pooled to {pooled} tokens.",
        "",
        f"- Different from {start}: {', '.join(f'{key} = {value}' for key, value in changes.items()) or 'nothing'}",
    ]
    for key, facts in sorted(tags.items()):
        if key.startswith("corpus."):
            corpus = json.loads(facts)
            lines.append(
                f"- Data, {key.removeprefix('corpus.')}: rows {corpus.get('rows')}, licence {corpus.get('licence') or 'not stated'}"
            )
    commit, dirty = tags.get("git.commit", "unknown"), ", with changes that were not committed" * (tags.get("git.dirty") == "true")
    lines.append(f"- Commit: {_commit_link(root, commit)}{dirty}")
    lines += [f"- {label}: {text}" for label, text in json.loads(os.environ.get(LINKS) or "{}").items()]
    lines.append("- Gallery of its answers: `pllava gallery outputs/evaluate`")
    return {NAME: name, NOTE: "\n".join(lines)}


def add_links(connection: MlflowClient, run_id: str, links: Mapping[str, str]) -> None:
    """Write a line `- label: text` for each link into the run's description. A line with the same label is replaced."""
    lines = connection.get_run(run_id).data.tags.get(NOTE, "").splitlines()
    lines = [line for line in lines if not any(line.startswith(f"- {label}: ") for label in links)]
    connection.set_tag(run_id, NOTE, "\n".join([*lines, *(f"- {label}: {text}" for label, text in links.items())]))


def differences(root: Path, params: Params) -> tuple[str, dict[str, str]]:
    """(the starting point, {setting: value here}): the committed params.yaml or a recipe, whichever is nearer to `params`."""
    mine = _settings(params.model_dump(mode="json"))
    starts: dict[str, dict[str, str]] = {}
    if (committed := _output(root, "show", f"HEAD:./{PARAMS_FILE}")) is not None and (known := _parsed(committed)) is not None:
        starts[PARAMS_FILE] = known
    for name in recipes.names(root):
        own, shipped_one = (folder / recipes.RECIPES / f"{name}.yaml" for folder in (root, shipped.folder()))
        if (known := _parsed((own if own.is_file() else shipped_one).read_text())) is not None:
            starts[f"recipe {name}"] = known
    best: tuple[str, dict[str, str]] = ("the defaults", mine)
    for name, known in starts.items():  # params.yaml first: it wins a tie
        changed = {key: mine.get(key, "none") for key in (*mine, *(set(known) - set(mine))) if mine.get(key) != known.get(key)}
        if len(changed) < len(best[1]):
            best = name, changed
    return best


def _parsed(text: str) -> dict[str, str] | None:
    """Settings of a params file, as `flatten` gives them; None when the file is not valid for this version of the project."""
    try:
        return _settings(Params.model_validate(yaml.safe_load(text)).model_dump(mode="json"))
    except (ValueError, yaml.YAMLError, PllavaError):
        return None


def _settings(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in flatten(values).items() if not key.startswith(NO_WEIGHTS)}


def _short(changes: Mapping[str, str]) -> str:
    """{"train.steps": "20", "train.lr": "0.001"} -> "steps=20, lr=0.001". A last part that two settings share gets the part before it."""
    last = [key.split(".")[-1] for key in changes]
    parts = []
    for key, value in list(changes.items())[:SHOWN]:
        name = ".".join(key.split(".")[-2:]) if last.count(key.split(".")[-1]) > 1 or key[-1].isdigit() else key.split(".")[-1]
        value = re.sub(r"\s*,\s*", "x", value.strip("[]")) if re.fullmatch(r"\[[\d, ]+\]", value) else value
        name = name.replace("learning_rate", "lr")  # as the curve is named
        parts.append(f"{name}={value}" if len(value) <= LONGEST else f"other {name}")
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return ", ".join(parts) + more


def _commit_link(root: Path, commit: str) -> str:
    """The commit as Markdown: a link where `origin` is a page on the web, else the hash."""
    origin = re.sub(r"^git@([^:]+):", r"https://\1/", _output(root, "remote", "get-url", "origin") or "").removesuffix(".git")
    page = re.fullmatch(r"https://(?:[^@/]*@)?([^/?#]+/.+)", origin)  # a login in the address is left out
    return f"[{commit[:12]}](https://{page[1]}/commit/{commit})" if page and commit != "unknown" else f"`{commit}`"


def _output(root: Path, *arguments: str) -> str | None:
    """The output of a git command; None where it is refused."""
    try:
        return git.run(root, *arguments).strip()
    except PllavaError:
        return None
