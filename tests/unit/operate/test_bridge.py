"""The bridge believes what MLflow signed, once, while it is fresh, and passes on only that the champion moved."""

import json
import stat
import time

import pytest
from fastapi.testclient import TestClient
from mlflow.webhooks.delivery import _generate_hmac_signature

from pllava.services import bridge

NOW = int(time.time())


def body(**data) -> bytes:
    moved = {"name": "pllava", "alias": "champion", "version": "3"} | data
    return json.dumps({"entity": "model_version_alias", "action": "created", "timestamp": "t", "data": moved}).encode()


class World:
    def __init__(self, root):
        self.root, self.events, self.away = root, [], False
        self.client = self.start()

    def start(self):
        def send(event):
            if self.away:
                raise OSError("no Prefect")
            self.events.append(event)

        return TestClient(bridge.create_app(self.root, send, frozenset({"pllava"})))

    def post(self, content, delivery="one", at=NOW, key=None, **headers):
        """As MLflow sends it, signed by MLflow's own code."""
        signed = _generate_hmac_signature(key or bridge.secret(self.root), delivery, str(at), content.decode("latin-1"))
        given = {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": str(at), "X-MLflow-Signature": signed} | headers
        return self.client.post("/mlflow", content=content, headers={k: v for k, v in given.items() if v is not None}).status_code


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(bridge.time, "time", lambda: NOW)  # the clock stands still, however long the tests before took
    return World(tmp_path)


def test_a_signed_move_of_the_champion_is_passed_on_once(world):
    assert world.client.get("/health").status_code == 200
    assert world.post(body()) == 200
    assert [event["payload"] for event in world.events] == [{"model": "pllava", "version": 3}]
    assert world.events[0]["resource"]["prefect.resource.id"] == "pllava.model.pllava"
    assert world.post(body()) == 409, "a replay"
    world.client = world.start()
    assert world.post(body()) == 409, "a replay after a restart"
    assert world.post(body(), delivery="two") == 200
    assert len(world.events) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "another secret"},
        {"at": NOW - bridge.WINDOW - 60},
        {"at": NOW + bridge.WINDOW + 60},
        {"X-MLflow-Signature": None},
        {"X-MLflow-Signature": "v1,"},
        {"X-MLflow-Timestamp": "soon"},
        {"X-MLflow-Timestamp": str(NOW + 1)},
        {"X-MLflow-Delivery-Id": "other"},
        {"X-MLflow-Delivery-Id": None},
    ],
)
def test_what_is_not_signed_freshly_with_our_secret_is_refused(world, wrong):
    assert world.post(body(), **wrong) == 401
    assert world.events == []


def test_a_changed_body_is_refused(world):
    signed = bridge.signature(bridge.secret(world.root), "one", str(NOW), body())
    assert world.post(body(version="4"), **{"X-MLflow-Signature": signed}) == 401
    assert world.events == []


def test_a_body_is_bounded(world):
    assert world.post(b"x" * (bridge.LONGEST + 1)) == 413


def test_other_news_goes_no_further(world):
    assert [world.post(body(**other), delivery=str(other)) for other in ({"alias": "previous"}, {"name": "other"}, {"version": "x"})] == [
        200
    ] * 3
    assert world.post(b'{"entity": "registered_model", "action": "created", "data": {}}', "four") == 200
    bodies = (b"[]", b"not json", b"[" * 5000, b"9" * 5000)
    assert [world.post(body, str(number)) for number, body in enumerate(bodies)] == [400] * len(bodies)
    assert world.events == []


def test_when_prefect_is_away_mlflow_may_deliver_again(world):
    world.away = True
    assert world.post(body()) == 503
    world.away = False
    assert world.post(body()) == 200
    assert len(world.events) == 1


def test_the_secret_stays_the_same_and_is_ours_alone(world):
    assert bridge.secret(world.root) == bridge.secret(world.root)
    assert stat.S_IMODE((world.root / bridge.HOME / "secret").stat().st_mode) == 0o600
    from cryptography.fernet import Fernet

    Fernet(bridge.mlflow_environment(world.root)["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"])
