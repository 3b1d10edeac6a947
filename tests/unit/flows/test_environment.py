"""What a fresh machine installs, and what the flow's process loads."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path("requirements.lock").read_text().splitlines()


def test_every_pin_is_exact_and_installable_anywhere():
    assert sorted(LOCK, key=str.lower) == LOCK
    for line in LOCK:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), f"{line!r}: no local versions, no addresses, no ranges"


def test_the_lock_holds_what_the_project_asks_for():
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text


def test_the_flow_loads_neither_torch_nor_gradio_nor_mlflow():
    code = "import sys, flows.pipeline, flows.summary; print(*sorted({'torch', 'gradio', 'mlflow', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
