"""A version of a tracking server elsewhere is fetched once, and is that server's version."""

import hashlib
import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import mlflow.artifacts
import pytest

from pllava.core.files import write_json
from pllava.core.hashing import sha256_file

resolve = importlib.import_module("pllava.registry.resolve")  # the package has a function of that name


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Version 3 of `pllava`, an adapter with `weights`."""
    monkeypatch.chdir(tmp_path)
    server = SimpleNamespace(tracking_uri="http://127.0.0.1:9", weights="these", fetched=0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.tracking_uri)

    def version(connection, name, number):
        digest = hashlib.sha256(server.weights.encode()).hexdigest()
        return SimpleNamespace(version=str(number), source="mlflow-artifacts:/1/model", tags={"adapter_sha256": digest})

    def download(artifact_uri, dst_path, tracking_uri):
        server.fetched += 1
        folder = Path(dst_path) / "model"
        folder.mkdir()
        (folder / "weights").write_text(server.weights)
        digest = sha256_file(folder / "weights")
        sleep(0.3)  # both would be at it
        write_json(folder / "manifest.json", {"files": {"weights": digest}, "adapter_sha256": digest})
        return str(folder)

    monkeypatch.setattr(resolve, "client", lambda: server)
    monkeypatch.setattr(resolve, "pick", version)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    return server


def test_two_processes_at_once_fetch_it_once(server):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve.locate, ["models:/pllava/3"] * 2)
    assert first == second
    assert server.fetched == 1


def test_the_version_of_that_number_on_another_server_is_another_one(server):
    resolve.locate("models:/pllava/3")
    server.weights = "others"
    _, folder = resolve.locate("models:/pllava/3")
    assert (folder / "weights").read_text() == "others"
    assert server.fetched == 2
