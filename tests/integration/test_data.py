"""Corpora in a real git and DVC project: added whole or not at all, pushed to a folder, and the same in a fresh clone."""

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import chdir
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pllava import cli
from pllava.core.errors import PllavaError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
BASE = PROJECT / "tests" / "reference" / "ckpt" / "tiny56_base"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(PROJECT),
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    **{f"GIT_{who}_{what}": "tests@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
STAGES = f"""
stages:
  prepare:
    cmd: {sys.executable} -m pllava.cli prepare  # the gate
    params: [data]
    deps:
      - data/raw/first
      - data/MVBench
    outs:
      - data/prepared
"""
PARAMS = """
data:
  train:
    - {name: first, annotations: data/raw/first/train.json, media: data/raw/first}
  validation: []   # none yet
  max_bad_fraction: 0.0       # every row counts
  workers: 1
model:
  base: %s
  template: tiny
train: {steps: 1, batch_size: 1, max_length: 160}
evaluate:
  benchmarks:
    mvbench: {root: data/MVBench, template: tiny_mvbench}
"""


def run(root: Path, *command: str, fails: bool = False) -> str:
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def dvc(root: Path, *arguments: str, **kwargs: bool) -> str:
    return run(root, sys.executable, "-m", "dvc", *arguments, **kwargs)


def data(root: Path, *arguments: str, fails: bool = False) -> str:
    """What `pllava data ARGUMENTS` says. In this process: a new one would load all libraries again, forty times in this file."""
    with pytest.MonkeyPatch.context() as monkeypatch, chdir(root):
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        result = CliRunner().invoke(cli.app, ["data", *arguments])
    assert result.exception is None or isinstance(result.exception, PllavaError | SystemExit), result.exc_info
    said = result.output + (str(result.exception) if isinstance(result.exception, PllavaError) else "")
    assert (result.exit_code != 0) == fails, f"{arguments}: {said}"
    return said


def write_gif(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.new("RGB", (32, 32), (seed * 7 % 256, step * 40, 200 - step * 20)) for step in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def write_corpus(folder: Path, seeds: range, annotations: Path) -> None:
    for seed in seeds:
        write_gif(folder / f"{seed}.gif", seed)
    rows = [{"video": f"{seed}.gif", "QA": [{"q": "Which number?", "a": f"It is {seed}."}]} for seed in seeds]
    if annotations.suffix == ".jsonl":
        chat = ("user", "assistant")
        lines = [
            {"video": row["video"], "messages": [{"role": r, "content": t} for r, t in zip(chat, list(row["QA"][0].values()), strict=True)]}
            for row in rows
        ]
        annotations.write_text("\n".join(map(json.dumps, lines)))
    else:
        annotations.write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "project"
    write_corpus(root / "data/raw/first", range(3), root / "data/raw/first/train.json")
    write_gif(root / "data/MVBench/video/moving_count/90.gif", 30)
    (root / "data/MVBench/json").mkdir()
    question = {"video": "90.gif", "question": "How many?", "candidates": ["1", "2"], "answer": "1"}
    (root / "data/MVBench/json/moving_count.json").write_text(json.dumps([question]))
    (root / "dvc.yaml").write_text(STAGES.lstrip())
    (root / "params.yaml").write_text((PARAMS % BASE).lstrip())
    (root / ".gitignore").write_text(".state/\n")
    shutil.copy(PROJECT / "Makefile", root)
    run(root, "git", "init", "-q")
    dvc(root, "init", "-q")
    for name in ("config", ".gitignore"):
        shutil.copy(PROJECT / ".dvc" / name, root / ".dvc")
    shutil.copy(PROJECT / ".dvcignore", root)
    dvc(root, "add", "-q", "data/raw/first", "data/MVBench")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "start")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A corpus outside of the project, as JSON lines."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write_corpus(folder / "clips", range(10, 14), folder / "rows.jsonl")
    return folder


def everything(root: Path) -> dict[str, bytes]:
    """All files but DVC's cache and the state of the stack."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in (".git", ".dvc", ".state")
    }


def test_a_corpus_from_outside_is_brought_tracked_and_prepared(project: Path, outside: Path) -> None:
    before = (project / "params.yaml").read_text()
    said = data(project, "add", "kitchen", "--annotations", str(outside / "rows.jsonl"), "--media", str(outside / "clips"), "--weight", "2")
    assert "rows | 4, of which usable 4" in said
    params = (project / "params.yaml").read_text()
    entry = "    - {name: kitchen, kind: video, annotations: data/raw/kitchen/train.jsonl, media: data/raw/kitchen/media, weight: 2.0}"
    assert [line for line in params.splitlines() if line not in before.splitlines()] == [entry]
    assert (project / "data/raw/kitchen/media.dvc").exists()
    assert (project / "data/raw/kitchen/train.jsonl.dvc").exists()
    assert yaml.safe_load((project / "dvc.yaml").read_text())["stages"]["prepare"]["deps"][2:] == [
        "data/raw/kitchen/train.jsonl",
        "data/raw/kitchen/media",
    ]
    dvc(project, "repro", "-q")
    report = json.loads((project / "data/prepared/report.json").read_text())["splits"]["train"]["corpora"]
    assert (report["first"]["rows"], report["kitchen"]["rows"], report["kitchen"]["clips"]) == (3, 8, 4)
    assert "kitchen" in data(project, "list")
    assert "tracked by data/raw/kitchen/media.dvc" in data(project, "show", "kitchen")
    data(project, "check", "kitchen")

    write_gif(project / "data/raw/kitchen/media/10.gif", 77)
    assert "data/raw/kitchen/media" in dvc(project, "status"), "prepare is stale when a clip has changed"
    (project / "data/raw/kitchen/media/11.gif").unlink()
    assert "media missing: 1 row(s)" in data(project, "check", "kitchen", fails=True)

    data(project, "remove", "kitchen")
    assert (project / "params.yaml").read_text() == before
    assert (project / "dvc.yaml").read_text() == STAGES.lstrip()
    assert not (project / "data/raw/kitchen/media.dvc").exists()
    assert (project / "data/raw/kitchen/media/10.gif").exists(), "the files stay"
    assert "first" in data(project, "remove", "kitchen", fails=True)
    data(project, "remove", "first")
    assert "data.train in params.yaml is empty. Add your clips: pllava data add" in dvc(project, "repro", fails=True)


def test_a_corpus_of_text_needs_no_media(project: Path, tmp_path: Path) -> None:
    before = (project / "params.yaml").read_text()
    chat = [{"role": "user", "content": "What is three and four?"}, {"role": "assistant", "content": "Seven."}]
    rows = [{"messages": chat}, {"QA": [{"q": "And the colour of snow?", "a": "White."}]}, {"QA": []}]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "row 2" in data(project, "add", "chat", "--kind", "text", "--annotations", str(tmp_path / "chat.jsonl"), fails=True)
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    said = data(project, "add", "chat", "--kind", "text", "--annotations", str(tmp_path / "chat.jsonl"))
    assert "media | none" in said
    assert "rows | 2, of which usable 2" in said
    entry = "    - {name: chat, kind: text, annotations: data/raw/chat/train.jsonl}"
    assert [line for line in (project / "params.yaml").read_text().splitlines() if line not in before.splitlines()] == [entry]
    dvc(project, "repro", "-q")
    assert json.loads((project / "data/prepared/report.json").read_text())["splits"]["train"]["corpora"]["chat"]["rows"] == 2
    assert "tracked by data/raw/chat/train.jsonl.dvc" in data(project, "show", "chat")
    data(project, "check", "chat")
    data(project, "remove", "chat", "--delete")
    assert (project / "params.yaml").read_text() == before
    assert (project / "dvc.yaml").read_text() == STAGES.lstrip()
    assert not (project / "data/raw/chat/train.jsonl").exists()


def test_what_lies_in_the_project_stays_where_it_is(project: Path) -> None:
    (project / "data/raw/own").mkdir()
    write_corpus(project / "data/raw/own/clips", range(20, 23), project / "data/raw/own/rows.json")
    data(project, "add", "own", "--annotations", "data/raw/own/rows.json", "--media", "data/raw/own/clips", "--split", "validation")
    assert (project / "data/raw/own/clips.dvc").exists()
    assert (project / "data/raw/own/rows.json.dvc").exists()
    data(project, "add", "own", "--annotations", "data/raw/first/train.json", "--media", "data/raw/first")
    assert not (project / "data/raw/first/train.json.dvc").exists(), "data/raw/first.dvc has it already"
    data(project, "remove", "own", "--split", "validation", "--delete")
    assert "  validation: [] # none yet" in (project / "params.yaml").read_text()
    assert not (project / "data/raw/own/clips").exists()


def test_a_folder_that_holds_another_corpus_is_not_deleted_with_its_own(project: Path) -> None:
    write_corpus(project / "all", range(40, 42), project / "all/train.json")
    write_corpus(project / "all/part", range(42, 44), project / "all/part/train.json")
    for name, folder in {"all": "all", "part": "all/part"}.items():
        data(project, "add", name, "--annotations", f"{folder}/train.json", "--media", folder)
    assert "all: stays as it is, all/part" in data(project, "remove", "all", "--delete")
    assert (project / "all.dvc").exists()
    assert (project / "all/part/42.gif").exists()
    assert "- all\n" in (project / "dvc.yaml").read_text()  # a change of the part is still seen
    data(project, "remove", "part")


def test_a_corpus_that_fails_leaves_everything_as_it_was(project: Path, outside: Path) -> None:
    (outside / "clips/10.gif").write_bytes(b"")
    before = everything(project)
    command = ("add", "kitchen", "--annotations", str(outside / "rows.jsonl"), "--media", str(outside / "clips"))
    said = data(project, *command, fails=True)
    assert "1 of 4 row(s) cannot be used" in said
    assert "media empty: 1" in said
    assert "Nothing was added" in said
    assert everything(project) == before
    assert "## media empty: 1 row(s)" in (project / ".state/data/kitchen-train.md").read_text()
    assert data(project, *command[:-1], str(outside / "none"), fails=True).count("is not there") == 1
    assert everything(project) == before
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("fraction: 0.0 ", "fraction: 0.25"))
    assert "1 row(s) cannot be used (25.0%)" in data(project, *command)


def test_an_add_that_is_killed_is_undone_by_the_next_command(project: Path, outside: Path) -> None:
    before = everything(project)
    code = "import os\nfrom pllava.corpora import add\nadd.rewrite = lambda *_: os._exit(9)\n"
    code += f"add.add('kitchen', {str(outside / 'rows.jsonl')!r}, {str(outside / 'clips')!r})"
    run(project, sys.executable, "-c", code, fails=True)
    assert everything(project) != before
    assert "undone" in data(project, "list")
    assert everything(project) == before


def test_the_benchmark_prints_a_table_then_one_json_line() -> None:
    lines = run(PROJECT, sys.executable, "benchmarks/prepare.py", "--rows", "200", "--clips", "5").splitlines()
    assert any("peak memory" in line for line in lines)
    result = next(json.loads(line) for line in lines if line.startswith("{"))
    assert [entry["rows"] for entry in result["runs"]] == [20, 200]
    assert all(entry["rows_per_second"] > 0 and entry["peak_bytes"] > 0 for entry in result["runs"])


@pytest.fixture
def server(outside: Path):
    """The folder over HTTP; DVC wants an ETag."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("ETag", '"1"')
            super().end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(outside))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_runs_after_every_way_data_is_tracked(project: Path, outside: Path, server: str) -> None:
    """A file fetched from a URL, a file and a folder copied from outside, and a folder that lies in the project."""
    from prefect import flow

    from flows.dag import Stage, read_dag
    from flows.stages import run_stages

    (outside / "chat.json").write_text(json.dumps([{"QA": [{"q": "And the colour of snow?", "a": "White."}]}]))
    write_corpus(project / "own/clips", range(50, 52), project / "own/clips/rows.json")
    data(project, "add", "fetched", "--annotations", f"{server}/rows.jsonl", "--media", str(outside / "clips"))
    data(project, "add", "chat", "--kind", "text", "--annotations", str(outside / "chat.json"))
    data(project, "add", "own", "--annotations", "own/clips/rows.json", "--media", "own/clips", "--split", "validation")
    assert read_dag(project) == [Stage("prepare", "", ())]
    assert flow(lambda: run_stages(project)[0], name="stages")() is None
    report = json.loads((project / "data/prepared/report.json").read_text())["splits"]
    assert set(report["train"]["corpora"]) == {"first", "fetched", "chat"}
    assert set(report["validation"]["corpora"]) == {"own"}


def test_push_clone_pull_and_everything_is_up_to_date(project: Path, outside: Path, server: str) -> None:
    data(project, "add", "kitchen", "--annotations", f"{server}/rows.jsonl", "--media", str(outside / "clips"))
    assert f"{server}/rows.jsonl" in (project / "data/raw/kitchen/train.jsonl.dvc").read_text()
    dvc(project, "repro", "-q")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "kitchen")
    run(project, "make", "remote", f"BIN={Path(sys.executable).parent}", "-o", ".venv/.installed")
    assert run(project, "git", "status", "--porcelain") == "", "the default remote is in git already"

    clone = project.parent / "clone"
    run(project.parent, "git", "clone", "-q", str(project), str(clone))
    assert not (clone / "data/prepared").exists()
    dvc(clone, "pull", "-q")
    assert everything(clone) == everything(project)
    assert "up to date" in dvc(clone, "status")
    assert "didn't change" in dvc(clone, "repro")
    assert "Cache and remote" in dvc(clone, "status", "--cloud")
    assert "in sync" in dvc(clone, "status", "--cloud")


def write_questions(folder: Path, name: str, seeds: range, **changes: object) -> Path:
    for seed in seeds:
        write_gif(folder / "clips" / f"{seed}.gif", seed)
    rows = [{"video": f"{seed}.gif", "question": "Which?", "options": ["one", "two"], "answer": "two"} | changes for seed in seeds]
    file = folder / name
    file.write_text("\n".join(map(json.dumps, rows)) if file.suffix == ".jsonl" else json.dumps(rows))
    return file


@pytest.mark.parametrize("name", ["asked.jsonl", "asked.json"])
def test_a_test_set_of_any_name_is_a_benchmark(project: Path, tmp_path: Path, name: str) -> None:
    file = write_questions(tmp_path / "elsewhere", name, range(40, 43))
    before = {name: (project / name).read_text() for name in ("params.yaml", "dvc.yaml")}
    command = ("add", "kitchen", "--split", "test", "--annotations", str(file), "--media", str(tmp_path / "elsewhere/clips"))
    assert "3 question(s) about 3 clip(s), a guess is right in 50%: Kitchen 3" in data(project, *command)
    entry = "    kitchen: {root: data/raw/kitchen/test, template: tiny_mvbench, max_new_tokens: 100}"
    assert [line for line in (project / "params.yaml").read_text().splitlines() if line not in before["params.yaml"]] == [entry]
    assert "media" in run(project, "git", "check-ignore", "data/raw/kitchen/test/media/40.gif"), "git never sees a clip"
    dvc(project, "repro", "-q")
    report = json.loads((project / "data/prepared/report.json").read_text())["splits"]["test"]["benchmarks"]
    assert (report["kitchen"]["rows"], report["kitchen"]["clips"]) == (3, 3)
    assert "data/raw/kitchen/test" in data(project, "list")
    assert "3 question(s)" in data(project, "check", "kitchen")
    assert "has 'kitchen' already" in data(project, *command, fails=True)
    data(project, "remove", "kitchen", "--delete")
    assert (project / "params.yaml").read_text() == before["params.yaml"]
    assert (project / "dvc.yaml").read_text() == before["dvc.yaml"]
    assert not (project / "data/raw/kitchen/test/media").exists()


def test_a_folder_in_the_layout_of_mvbench_is_a_test_set(project: Path) -> None:
    shutil.copytree(project / "data/MVBench", project / "data/raw/pans")
    write_gif(project / "data/raw/pans/video/moving_count/90.gif", 31)
    assert "Moving Count 1" in data(project, "add", "pans", "--split", "test", "--annotations", "data/raw/pans")
    assert (project / "data/raw/pans.dvc").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"options": None}, "candidates must be a list"),
        ({"options": ["one"]}, "candidates must be a list of 2 to 7 options"),
        ({"answer": "three"}, "the answer 'three' is none of the options"),
        ({"video": "99.gif"}, "99.gif is not there"),
        ({"video": "../1.gif"}, "the name of a file in"),
    ],
)
def test_a_wrong_row_of_a_test_set_changes_nothing(project: Path, tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    file = write_questions(tmp_path / "elsewhere", "asked.jsonl", range(40, 42), **changes)
    before = everything(project)
    clips = str(tmp_path / "elsewhere/clips")
    assert sentence in data(project, "add", "pans", "--split", "test", "--annotations", str(file), "--media", clips, fails=True)
    assert everything(project) == before


def test_a_clip_of_the_test_set_is_in_no_other_split(project: Path, tmp_path: Path) -> None:
    file = write_questions(tmp_path / "elsewhere", "asked.jsonl", range(1, 2))
    data(project, "add", "kitchen", "--split", "test", "--annotations", str(file), "--media", str(tmp_path / "elsewhere/clips"))
    assert "1 clip(s) are in two splits" in dvc(project, "repro", "-q", fails=True)
