"""A registered version is an MLflow model: loaded in another process and folder, and served over HTTP. A tiny random model."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from serving import write_adapter, write_clip

from pllava import registry
from pllava.core.files import write_json
from pllava.core.params import Params, load_params
from pllava.tracking import runs as tracking
from pllava.tracking import store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory, mlflow_template, tiny_base_dir):
    """A project with one champion, made of a random adapter; its base is a folder that is gone afterwards. -> (folder, clip, answer)."""
    import pllava

    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings(record=True) as warned:
        monkeypatch.chdir(root)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copytree(mlflow_template, store.MLFLOW_HOME)
        shutil.copytree(tiny_base_dir, "base")
        values = load_params(ROOT / "recipes/tiny.yaml").model_dump()
        values["model"] |= {"base": "base", "num_frames": 4, "pooling_shape": (4, 2, 2), "template": "vicuna"}
        params = Params.model_validate(values)
        write_json("params.yaml", params.model_dump(mode="json"))
        with tracking.training_run(params):
            config = {"base": "base", "template": "vicuna", "model": params.model.model_dump(mode="json")}
            digest = write_adapter("base", Path("outputs/train/adapter"), 1, config, num_frames=4, pooling_shape=(4, 2, 2))
        score = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 1}
        provenance = {"data_sha256": "d" * 64, "template_sha256": "t" * 64, "adapter_sha256": digest}
        models = {"adapted": {"average": score, "tasks": {"Moving Count": score}}}
        write_json("metrics/mvbench.json", {"benchmark": "mvbench", "provenance": provenance, "models": models})
        Path("outputs/evaluate/mvbench").mkdir(parents=True)
        Path("outputs/evaluate/mvbench/results.jsonl").write_text("")
        registry.register(params)
        registry.gate(params)
        registry.promote(params)
        write_clip(root / "clip.mp4")
        model, processor = pllava.load("outputs/train/adapter", dtype="float32", device="cpu")
        answer = pllava.VideoChat(model, processor, template="vicuna").watch("clip.mp4").ask("What?", max_new_tokens=5).text
        shutil.rmtree("base")
        shutil.rmtree("outputs")
    assert not [warning for warning in warned if "type hint" in str(warning.message).lower()]
    return root, root / "clip.mp4", answer


@pytest.fixture
def elsewhere(project, tmp_path):
    """The environment of a process in another folder that knows MLflow's address and not where the project is."""
    keep = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    uri = f"sqlite:///{project[0] / store.MLFLOW_HOME / 'mlflow.db'}"
    path = os.pathsep.join([str(Path(sys.executable).parent), keep["PATH"]])  # `mlflow models serve` looks for uvicorn there
    return {"cwd": tmp_path, "env": keep | {"MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1", "PATH": path}}


PROGRAM = """
import sys, json, mlflow, pandas
model, clip = mlflow.pyfunc.load_model("models:/pllava@champion"), sys.argv[1]
row, few = {"video": clip, "question": "What?"}, {"max_new_tokens": 5}
print(json.dumps([model.predict(given, params=few) for given in (row, [row, row | {"question": "Why?"}], pandas.DataFrame([row, row]))]))
"""


def test_it_answers_in_another_folder_and_process_without_the_project(project, elsewhere):
    _, clip, answer = project
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(clip)], **elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "type hint" not in done.stderr.lower(), done.stderr
    one, listed, frame = json.loads(done.stdout)
    assert one == [answer]
    assert listed[0] == answer
    assert len(listed) == 2
    assert frame == [answer, answer]


def test_nothing_of_a_version_is_pickled(project, monkeypatch):
    monkeypatch.chdir(project[0])
    folder = registry.resolve("models:/pllava@champion").parents[1]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert folder / "MLmodel" in files
    assert folder / "pyfunc.py" in files
    for path in files:
        with path.open("rb") as file:
            head = file.read(4)
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin"), path
        assert not zipfile.is_zipfile(path), path
        assert head[:1] != b"\x80" or head[1] not in range(2, 6), f"{path} begins as a pickle does"
    flavour = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavour["model_code_path"].endswith("pyfunc.py")
    assert "python_model" not in flavour


def test_the_version_is_still_an_adapter_that_pllava_loads(project, monkeypatch):
    import pllava

    monkeypatch.chdir(project[0])
    model, processor = pllava.load("models:/pllava@champion", dtype="float32", device="cpu")
    chat = pllava.VideoChat(model, processor, template="vicuna")
    assert chat.watch(project[1]).ask("What?", max_new_tokens=5).text == project[2]
    card = (registry.resolve("models:/pllava@champion").parents[1] / "model_card.md").read_text()
    for part in ("Licence of the base", "### Limits", "90.0 (80-100)", "### Settings", "params sha256"):
        assert part in card


def post(port: int, body: object) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_mlflow_serves_it_over_http(project, elsewhere):
    _, clip, answer = project
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/pllava@champion", "--env-manager", "local"]
    with (elsewhere["cwd"] / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], **elsewhere, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                status, said = post(port, {"inputs": {"video": str(clip), "question": "What?"}, "params": {"max_new_tokens": 5}})
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, (elsewhere["cwd"] / "log").read_text()
                assert server.poll() is None, (elsewhere["cwd"] / "log").read_text()
                time.sleep(0.2)
        assert (status, said) == (200, {"predictions": [answer]})
        records = [{"video": str(clip), "question": "What?"}, {"video": str(clip), "question": "Why?", "start": 0.5}]
        status, said = post(port, {"dataframe_records": records, "params": {"max_new_tokens": 5}})
        assert status == 200
        assert len(said["predictions"]) == 2
        assert said["predictions"][0] == answer
        status, said = post(port, {"inputs": {"video": "/nowhere.mp4", "question": "What?"}})
        assert status == 400
        assert "no such file" in said["message"]
    finally:
        with suppress(ProcessLookupError):  # it died by itself: the test has said why
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
