"""Which MLflow the services use is settled when they are started; later commands go by that, whatever their environment says."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pllava.core.errors import PllavaError
from pllava.services.programs import programs
from pllava.services.stack import LOGIN, recorded, secret, wanted
from pllava.services.supervisor import write_settings

RECIPE = Path(__file__).parents[3] / "recipes/tiny.yaml"


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copy(RECIPE, tmp_path / "params.yaml")
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_demo_on_another_port_than_the_one_asked_for_is_refused_and_not_moved_later(root, monkeypatch):
    import os
    import socket

    import psutil

    from pllava.core import processes
    from pllava.services.up import _require_ports

    monkeypatch.chdir(root)
    processes.record(psutil.Process(os.getpid()), host="127.0.0.1", port=7860)
    ports = []
    for name in ("PLLAVA_MLFLOW_PORT", "PLLAVA_PREFECT_PORT", "PLLAVA_BRIDGE_PORT", "PLLAVA_DEMO_PORT"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
        monkeypatch.setenv(name, str(ports[-1]))
    with pytest.raises(PllavaError, match=f"on port 7860. For {ports[-1]}: pllava stop, then make up PLLAVA_DEMO_PORT={ports[-1]}"):
        _require_ports(wanted(root))
    monkeypatch.setenv("PLLAVA_DEMO_PORT", "7860")
    _require_ports(wanted(root))


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:5000", "http://localhost:5000/", "sqlite:////a/mlflow.db"])
def test_our_own_server_under_any_name_is_started(root, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert "mlflow" in {program.name for program in programs(wanted(root))}


def test_a_server_elsewhere_stays_in_use_and_its_address_is_written_nowhere(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org")
    stack = wanted(root)
    stack.save()
    assert "secret" not in write_settings(stack).read_text()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    found = recorded(root)
    assert found == stack
    assert "mlflow" not in {program.name for program in programs(found)}
    assert found.mlflow_url == "elsewhere (MLFLOW_TRACKING_URI)"


def test_our_own_server_stays_in_use(root, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    wanted(root).save()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://example.org")
    assert recorded(root).mlflow_url == "http://127.0.0.1:5000"


def test_a_secret_is_made_once_and_read_by_its_user_alone(tmp_path):
    file = tmp_path / "home/login"
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: secret(file, "pllava:"), range(32)))
    (login,) = made
    assert login == file.read_text()
    assert login.startswith("pllava:")
    assert len(login) > 40
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    file.chmod(0o644)
    assert secret(file) == login
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("\n")  # its disk was full
    assert secret(file, "pllava:") not in ("", login)


def test_the_login_of_prefect_is_in_no_settings_and_the_same_after_a_restart(root):
    stack = wanted(root)
    stack.save()
    login = stack.login()
    assert login == {"PREFECT_API_AUTH_STRING": (root / LOGIN).read_text(), "PREFECT_SERVER_API_AUTH_STRING": (root / LOGIN).read_text()}
    assert recorded(root).login() == login
    assert login["PREFECT_API_AUTH_STRING"].partition(":")[2] not in write_settings(stack).read_text()
    assert not set(login) & set(stack.environment())


def test_a_flow_knows_the_login_of_our_services_makes_one_for_its_own_server_and_gives_another_server_none(root, monkeypatch):
    import flows

    monkeypatch.setattr(flows, "ROOT", root)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    own = flows._login()
    assert own["PREFECT_API_AUTH_STRING"] == own["PREFECT_SERVER_API_AUTH_STRING"] != flows._login()["PREFECT_API_AUTH_STRING"]
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert flows._login() == {}, "no services of ours run there"
    stack = wanted(root)
    stack.save()
    assert flows._login() == stack.login()
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    assert flows._login() == {}
