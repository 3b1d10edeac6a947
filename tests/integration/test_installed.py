"""A plain `pip install` into another environment: commands run in an empty folder, and `pllava init` makes a project."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from gallery_results import result, write, write_h264
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

CHECKOUT = Path(__file__).parents[2]
CLIP = CHECKOUT / "tests/reference/video/clip.gif"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of a virtual environment that holds the wheel; the libraries it needs are those of this one. No checkout is in sight."""
    root = tmp_path_factory.mktemp("installed")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=CHECKOUT, capture_output=True, check=True
    )
    for name in files.stdout.decode().split("\0"):
        if (CHECKOUT / name).is_file() and not name.startswith("tests/"):  # a copy: `pip wheel` leaves build/ behind
            (root / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, root / "source" / name)
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(root), str(root / "source")], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
    python = root / "venv/bin/python"
    wheel = next(root.glob("*.whl"))
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    shutil.rmtree(root / "source")
    packages = next((root / "venv").glob("lib/python*/site-packages"))
    (packages / "libraries.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    (root / "venv/bin/dvc").write_text(f'#!/bin/sh\nexec "{python}" -m dvc "$@"\n')
    (root / "venv/bin/dvc").chmod(0o755)
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI", "PREFECT_HOME")}
    return outside | {"PATH": f"{root / 'venv/bin'}{os.pathsep}{os.environ['PATH']}", "SITE": str(packages), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def run(environment, tmp_path):
    """Run a command in an empty folder; its output."""

    def run(*command, cwd=tmp_path, code=0):
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_nothing_but_pllava_is_installed(environment, run):
    assert run("python", "-c", "import pllava; print(pllava.__file__)").strip() == f"{environment['SITE']}/pllava/__init__.py"
    names = {path.name for path in Path(environment["SITE"]).iterdir() if path.suffix not in (".pth", ".dist-info")}
    assert names - {"__pycache__"} == {"pllava"}


def test_commands_run_in_an_empty_folder(run, tmp_path):
    assert run("pllava", "version").startswith("pllava ")
    assert len(run("pllava", "recipe", "list").splitlines()) == 5
    assert "everything needed is here" in run("pllava", "doctor")
    assert "72" in run("pllava", "plan", "tiny")
    assert run("pllava", "ask", CLIP, "What is moving?").strip()
    assert list(tmp_path.iterdir()) == [], "whoever only looks leaves nothing behind"
    run("pllava", "caption", CLIP, "--out", "captions.jsonl")
    assert json.loads((tmp_path / "captions.jsonl").read_text())["caption"]


def test_models_are_converted_composed_and_exported_in_an_empty_folder(environment, run, tmp_path, reference, tiny_base_dir):
    base = f"{environment['SITE']}/pllava/project/data/base/tiny-llava"
    run("pllava", "export", base, "exported")
    assert (tmp_path / "exported/config.json").is_file()
    assert run("pllava", "ask", CLIP, "What is moving?", "--model", base, "--template", "tiny").strip()
    run("pllava", "convert", reference / "ckpt/tiny56_lora_r8", "mine", "--base", tiny_base_dir)
    assert (tmp_path / "mine/adapter_model.safetensors").is_file()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(tmp_path / "tower")
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=1000)).save_pretrained(tmp_path / "language")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_base_dir / name, tmp_path / "language")
    run("pllava", "compose", "tower", "language", "base", "--num-frames", "2", "--pooling-shape", "2", "2", "2")
    assert (tmp_path / "base/config.json").is_file()


@pytest.mark.parametrize(("command", "path"), [("serve", "/v1/models"), ("demo", "/"), ("gallery results", "/")])
def test_pages_are_served_from_an_empty_folder(environment, tmp_path, command, path):
    write(tmp_path / "results", [result(0, "adapted", True)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["pllava", *command.split(), "--port", str(port)], cwd=tmp_path, env=environment, stdout=file, stderr=file
        )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(400):
            assert process.poll() is None, log.read_text()
            try:
                assert opener.open(f"http://127.0.0.1:{port}{path}", timeout=10).status == 200
                return
            except OSError:
                time.sleep(0.2)
        pytest.fail(log.read_text())
    finally:
        process.terminate()
        process.wait(30)


def test_init_makes_a_project_whose_stages_and_flow_are_there(run, tmp_path):
    project = tmp_path / "mine"
    assert "dvc repro" in run("pllava", "init", "mine")
    run("git", "init", "-q", cwd=project)
    run("git", "add", ".", cwd=project)
    run("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "A new project", cwd=project)
    dag = "from flows import ROOT, pipeline\nfrom flows.dag import read_dag\nprint(ROOT, *(stage.name for stage in read_dag(ROOT)))"
    lines = run("python", "-c", dag, cwd=project).split()
    assert lines == [str(project), "code", "render", "prepare", "features", "train", "evaluate@mvbench", "report"]
    small = (project / "params.yaml").read_text().replace("instruction_clips: 2000", "instruction_clips: 3")
    (project / "params.yaml").write_text(
        small.replace("validation_clips: 100", "validation_clips: 1").replace("per_task: 50", "per_task: 1")
    )
    assert "Running stage 'render'" in run("dvc", "repro", "render", cwd=project)
    again = run("dvc", "repro", "render", cwd=project)
    assert "Stage 'render' didn't change, skipping" in again, "the stage `code` ran again, and wrote the same"
    assert (project / "data/raw/rendered/MVBench/json").is_dir()


def test_the_page_on_ones_own_data_is_true(environment, run, tmp_path):
    """The commands of docs/your-data.md, as they stand there, with clips in folders and names of another person."""
    commands = re.findall(r"^\$ (.+)$", (CHECKOUT / "docs/your-data.md").read_text(), re.MULTILINE)
    assert [line.split()[:3] for line in commands][-1] == ["make", "run"]
    run("pllava", "init", "mine", "--recipe", "own")
    project = tmp_path / "mine"
    for number in range(9):
        write_h264(project / "clips" / f"pän {number}.mp4", number % 5, size=64 if number < 5 else 96)
    asked = [{"video": f"pän {n}.mp4", "QA": [{"i": "", "q": "What is in the pan?", "a": "Two eggs."}]} for n in range(6)]
    (project / "train.json").write_text(json.dumps(asked))
    tests = [{"video": f"pän {n}.mp4", "question": "What is in it?", "options": ["rice", "eggs"], "answer": "B"} for n in range(6, 9)]
    (project / "test.jsonl").write_text("\n".join(map(json.dumps, tests)))
    run("git", "init", "-q", cwd=project)
    for setting in ("user.name=a", "user.email=a@b.c"):
        run("git", "config", *setting.split("="), cwd=project)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = environment | {"PLLAVA_DEMO_PORT": str(free.getsockname()[1])}
    said = ""
    try:
        for command in commands:
            if command == "make run":  # a training of seconds
                text = (project / "params.yaml").read_text().replace("steps: 100", "steps: 2")
                (project / "params.yaml").write_text(text)
                run("git", "add", "-A", cwd=project)
                run("git", "commit", "-qm", "My clips", cwd=project)
            done = subprocess.run(command, shell=True, cwd=project, env=environment, capture_output=True, text=True)
            said += f"$ {command}\n{done.stdout}{done.stderr}"
            assert done.returncode == 0 or "version 1 did not pass the gate" in said, said  # two steps may be worse than a guess
        assert ".mp4" not in run("git", "ls-files", cwd=project), "git holds no clip that DVC tracks"
        assert json.loads((project / "metrics/kitchen.json").read_text())["benchmark"] == "kitchen"
        assert "champion of own: version 1" in said or "pllava promote --version 1 --force" in said
        lineage = run("pllava", "lineage", "models:/own/1", cwd=project)
        assert "kitchen" in lineage
        assert "shapes" not in lineage + said
    finally:
        subprocess.run(["pllava", "down"], cwd=project, env=environment, capture_output=True)
