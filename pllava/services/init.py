"""`pllava init FOLDER`: make a project that uses the installed pllava. `init(Path("mine"), "tiny")`."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from pllava.core import recipes, shipped
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir
from pllava.core.params import PARAMS_FILE
from pllava.services.rooms import for_installed

MAKEFILE = """\
# The names that a checkout of pllava has, with the programs of the environment that is active.
.PHONY: run repro up down status remote

run: ## bring the pipeline up to date, judge the model, serve the champion
\t@python -m flows.pipeline

repro: ## the DVC stages alone
\t@dvc repro

up down: ## start the services in the background, and stop them
\t@pllava $@

status: ## what runs, and what is out of date
\t@pllava status
\t@dvc status

REMOTE ?= ../pllava-storage
remote: ## push data to a folder beside the project, or to REMOTE=s3://bucket/path
\t@dvc remote add -q --force --default storage "$(REMOTE)"
\t@dvc push
"""


def init(folder: Path, recipe: str = "tiny") -> str:
    """Write the project, complete or not at all. Returns the next steps as text. Raises PllavaError: folder in use, unknown recipe."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PllavaError(f"{folder} is not an empty folder. Name a new one: pllava init FOLDER")
    path = folder.resolve()
    shown = path if path == Path.cwd() else folder  # the current folder is replaced: a shell in it has to enter the new one
    settings = recipes.read(recipe)
    source = shipped.folder()
    files = sorted({file for pattern in shipped.PROJECT for file in source.glob(pattern) if file.is_file()})
    with atomic_dir(path) as making:
        for file in files:
            target = making / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        (making / PARAMS_FILE).write_text(settings)
        (making / "Makefile").write_text(MAKEFILE)
        (making / "dvc.yaml").write_text(for_installed((source / "dvc.yaml").read_text()))
    return (
        f"{shown} is a project with the recipe {recipe}. Next:\n"
        f"  cd {shlex.quote(str(shown))}\n"
        "  git init && git add . && git commit -m 'A new project'\n"
        "  dvc repro                   # the stages alone\n"
        "  make run                    # the stages, then register, gate, promote, serve\n"
        "  make up                     # Prefect, MLflow and the demo in the browser; make down stops them"
    )
