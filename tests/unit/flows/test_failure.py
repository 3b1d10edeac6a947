"""A failure is told once, and what fails for a reason that passes is tried again: except training."""

import http.server
import json
import logging
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
import yaml
from prefect.utilities.importtools import import_object

from flows import ROOT, failure, retry
from flows.pipeline import pipeline

RUN = SimpleNamespace(name="brave-otter", id="0000")
STATE = SimpleNamespace(name="Failed", message="stage train failed")


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(failure, "flow_run_logger", lambda run, flow: logging.getLogger("run"))


def test_the_webhook_gets_why(monkeypatch, log):
    received = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(failure.WEBHOOK, f"http://127.0.0.1:{server.server_port}/secret")
        failure.tell(pipeline, RUN, STATE)
        server.shutdown()
    assert [(told["flow"], told["run"], told["message"]) for told in received] == [("pipeline", "brave-otter", "stage train failed")]


def test_a_webhook_that_is_away_changes_nothing_and_is_not_shown(monkeypatch, log, caplog):
    monkeypatch.setenv(failure.WEBHOOK, "http://127.0.0.1:9/secret")
    failure.tell(pipeline, RUN, STATE)
    assert "was not told" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("message", "again"),
    [
        ("3 of 10 judgements failed, judge.max_missing allows 2.0%. The first: no reply within 60 s", True),
        ("MLflow at http://127.0.0.1:1 does not answer", True),
        ("ConnectionError: Connection refused", True),
        ("the judge at http://x refuses model 'm' with status 401", False),
        ("train.steps: input should be greater than or equal to 1", False),
        ("CUDA out of memory", False),
    ],
)
def test_what_passes_is_tried_again(message, again):
    assert retry.may_pass(None, None, SimpleNamespace(message=message)) is again


def test_training_is_never_tried_again():
    assert retry.options("train") == {"retries": 0}
    assert retry.options("evaluate@mvbench")["retries"] > 0


def test_every_form_tells_of_its_failure():
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flows = {import_object(str(ROOT / entry["entrypoint"])) for entry in deployed}
    assert {flow.name for flow in flows if not told(flow)} == set()


def told(flow):
    return all(failure.tell in hooks for hooks in (flow.on_failure_hooks, flow.on_crashed_hooks, flow.on_cancellation_hooks))


@pytest.mark.parametrize("address", ["no address: secret", "http://127.0.0.1:{port}/secret", "http://[secret", "file:///secret"])
def test_without_the_context_of_a_run_it_tells_and_never_raises(monkeypatch, caplog, address):
    """As Prefect calls it after a crash or a cancellation; also where the other side speaks no HTTP."""
    import socket

    monkeypatch.setattr(failure, "SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble():
            with suppress(OSError):  # nobody called
                answer(server.accept()[0])

        def answer(connection):
            connection.recv(10000)
            connection.sendall(b"no http\r\n\r\n")
            connection.close()

        threading.Thread(target=babble, daemon=True).start()
        monkeypatch.setenv(failure.WEBHOOK, address.format(port=server.getsockname()[1]))
        for run in (RUN, SimpleNamespace(name=None, id=None)):
            failure.tell(pipeline, run, SimpleNamespace(name=None, message=None))
    assert "secret" not in caplog.text


def test_a_task_that_returns_its_failure_is_logged_without_an_empty_traceback(caplog):
    logger = logging.getLogger("prefect.task_runs")
    with caplog.at_level(logging.ERROR, logger.name):
        caplog.handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(caplog.handler)  # Prefect's loggers do not propagate
        try:
            logger.error("Task run failed", exc_info=True)  # as Prefect's task engine does, outside an except
            try:
                1 / 0  # noqa: B018
            except ZeroDivisionError:
                logger.error("an exception", exc_info=True)
        finally:
            logger.removeHandler(caplog.handler)
    assert "NoneType" not in caplog.text
    assert "ZeroDivisionError" in caplog.text
