"""`pllava reproduce models:/pllava/3`: train a version again from its records, and compare the bytes of the weights.

The version's commit is checked out in a git worktree under .state/reproduce, with the version's settings and the project's DVC cache.
DVC provides the inputs of the training from the cache or by running earlier stages. The training always runs. The worktree is removed.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.core import git
from pllava.core.command import stream
from pllava.core.errors import PllavaError
from pllava.core.files import alone, atomic_write_text, read_json
from pllava.core.params import load_params
from pllava.core.worktrees import remove, remove_abandoned, share_cache
from pllava.registry.resolve import locate
from pllava.tracking import provenance
from pllava.tracking.runs import ADAPTER, PARAMS
from pllava.tracking.store import client, project_root, setup

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

HOME = Path(".state/reproduce")
STAGE = "train"
LAST_LINES = 15


@dataclass(frozen=True)
class Reproduction:
    """`expected` and `found`: sha256 of the adapter's weights. `data`: {name: (recorded, now)} of the inputs that differ."""

    uri: str
    commit: str
    expected: str
    found: str
    data: dict[str, tuple[str, str]]
    warnings: list[str]

    @property
    def equal(self) -> bool:
        return self.expected == self.found

    def describe(self) -> str:
        verdict = "the same bytes" if self.equal else "OTHER bytes"
        lines = [f"{self.uri} trained again at {self.commit[:12]}: {verdict}", f"  recorded {self.expected}", f"  now      {self.found}"]
        lines += [f"  {name} differs: {was} recorded, {now} now" for name, (was, now) in self.data.items()]
        return "\n".join(lines + [f"  note: {warning}" for warning in self.warnings])


def reproduce(uri: str, say: Callable[[object], None] = print) -> Reproduction:
    """Train the version again. Raises PllavaError when the repository lacks its commit, or when a stage fails."""
    root = project_root()
    number, _ = locate(uri)
    connection = client()
    version = connection.get_model_version(uri.removeprefix("models:/").split("@")[0].split("/")[0], str(number))
    if not version.run_id:
        raise PllavaError(f"{uri} has no MLflow run, so nothing says how it was trained")
    run = connection.get_run(version.run_id)
    commit = run.data.tags.get("git.commit", "unknown")
    if not git.run(root, "rev-parse", "--revs-only", f"{commit}^{{commit}}").strip():
        raise PllavaError(f"{uri} was trained at commit {commit}, which is not in this repository. Fetch it: git fetch --all")
    warnings = []
    if run.data.tags.get("git.dirty") == "true":
        changed = run.data.tags.get("git.changed", "unknown files")
        warnings.append(f"the tree was not clean when it was trained ({changed}); those changes are not in the commit")
    with _worktree(root, commit) as tree:
        _settings(run, tree, warnings)
        params = load_params(tree / "params.yaml")
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "MLFLOW_TRACKING_URI": setup(),
            "PLLAVA_MAIN": str(root),
            "PLLAVA_REPRODUCES": f"models:/{version.name}/{number}",
        }
        _data(tree, environment, say)
        needed = _upstream(tree)
        if needed:
            _dvc(["--wait-for-lock", "repro", *needed], tree, environment, say)
        _dvc(["--wait-for-lock", "repro", "--force", "--single-item", STAGE], tree, environment, say)
        recorded = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs} if run.inputs else {}
        now = {name: digest for name, (_, digest) in provenance.dataset_digests(tree, params).items()}
        differs = {name: (digest, now.get(name, "none")) for name, digest in recorded.items() if now.get(name) != digest}
        adapter_sha256 = read_json(tree / ADAPTER / "manifest.json")["adapter_sha256"]
    return Reproduction(uri, commit, str(version.tags.get("adapter_sha256")), adapter_sha256, differs, warnings)


def _settings(run: MlflowRun, tree: Path, warnings: list[str]) -> None:
    """Write the recorded settings of the run to params.yaml of the worktree, unless the commit has the same settings."""
    connection = client()
    if not any(item.path == PARAMS for item in connection.list_artifacts(run.info.run_id, str(Path(PARAMS).parent))):
        warnings.append("the run recorded no settings: params.yaml is that of the commit")
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(connection.download_artifacts(run.info.run_id, PARAMS, folder))
        recorded = yaml.safe_load(file.read_text())
        if load_params(tree / "params.yaml").model_dump(mode="json") != recorded:
            atomic_write_text(tree / "params.yaml", yaml.safe_dump(recorded, sort_keys=False))


def _data(tree: Path, environment: dict[str, str], say: Callable[[object], None]) -> None:
    """What `dvc add` tracks, as of that commit: from the cache, else from the remote."""
    files = git.run(tree, "ls-files", "-z", "*.dvc").split("\0")[:-1]
    if not files:
        return
    try:
        _dvc(["checkout", *files], tree, environment, say)
    except PllavaError:
        _dvc(["pull", *files], tree, environment, say)


def _upstream(tree: Path) -> list[str]:
    """Stages of dvc.yaml whose outputs training reads; DVC runs what those need itself."""
    stages: dict[str, Any] = yaml.safe_load((tree / "dvc.yaml").read_text())["stages"]
    if STAGE not in stages:
        raise PllavaError(f"dvc.yaml of that commit has no stage {STAGE!r}")
    reads = [Path(path) for path in stages[STAGE].get("deps", [])]

    def writes(stage: dict[str, Any]) -> list[Path]:
        return [Path(next(iter(out)) if isinstance(out, dict) else out) for out in stage.get("outs", [])]

    return [
        name
        for name, stage in stages.items()
        if name != STAGE and any(out.is_relative_to(path) or path.is_relative_to(out) for out in writes(stage) for path in reads)
    ]


def _dvc(arguments: list[str], tree: Path, environment: dict[str, str], say: Callable[[object], None]) -> None:
    """Run DVC and pass its output lines to `say`. When this process is stopped, DVC and its children are stopped too.

    Raises PllavaError with the last lines when DVC fails.
    """
    code, last = stream([sys.executable, "-m", "dvc", *arguments], tree, environment, say)
    if code:
        raise PllavaError(f"dvc {' '.join(arguments)} failed (exit code {code}). Its last lines:\n" + "\n".join(last[-LAST_LINES:]))


@contextmanager
def _worktree(root: Path, commit: str) -> Iterator[Path]:
    """The project folder in a git worktree of the commit, with the project's DVC cache.

    The worktree is removed at the end, also after an error or SIGTERM. Raises PllavaError when the commit has no such folder.
    """
    home = root / HOME
    home.mkdir(parents=True, exist_ok=True)
    remove_abandoned(root, home)
    tree = home / f"{commit[:12]}.{secrets.token_hex(4)}"
    lock = home / f"{tree.name}.lock"
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with alone(lock, f"{tree} is in use"):
            git.run(root, "worktree", "add", "--detach", "--quiet", str(tree), commit)
            project = tree / git.prefix(root)
            if not (project / ".dvc").is_dir():
                raise PllavaError(f"commit {commit} has no DVC project in {git.prefix(root)}, where {root} lies in its repository now")
            share_cache(root, project)
            yield project
    finally:
        signal.signal(signal.SIGTERM, before)
        remove(root, tree)
        lock.unlink(missing_ok=True)
