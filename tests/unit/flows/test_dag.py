"""The flow's graph of a project whose data DVC tracks by files of its own."""

import subprocess
import sys
from pathlib import Path

from flows.dag import Stage, read_dag

STAGES = """
stages:
  prepare: {cmd: cat rows.json > out, deps: [clips, rows.json, fetched.json, bucket], outs: [out]}
  train: {cmd: cp out two, deps: [out, clips], outs: [two]}
"""


def test_what_dvc_add_and_import_url_track_is_no_stage_of_the_flow(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    root, outside = tmp_path / "project", tmp_path / "outside"
    for file in (root / "clips/a.txt", root / "rows.json", outside / "fetched.json", outside / "bucket/b.txt"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    (root / "dvc.yaml").write_text(STAGES)
    for command in (
        ("init", "--no-scm"),
        ("add", "clips", "rows.json"),
        ("import-url", "../outside/fetched.json", "fetched.json"),
        ("import-url", "../outside/bucket", "bucket"),
    ):
        subprocess.run([sys.executable, "-m", "dvc", *command, "-q"], cwd=root, check=True)
    assert read_dag(root) == [Stage("prepare", "", ()), Stage("train", "", ("prepare",))]
