"""Notifications: real HTTP and real SMTP servers on this machine; signed, tried again, told once."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import console_lab
import layouts
import pytest
import sqlalchemy as sql
from aiosmtpd.controller import Controller
from console_lab import Lab

from console.deliver import BACKOFF_SECONDS, Deliverer, signature
from console.notify import Notifier
from console.settings import Settings
from console.store import NOTICES
from migrate.errors import RefusedInput
from migrate.operations import OperationKind
from stacks.layout import Gate

SECRET = b"a-secret-of-the-customer"


class Receiver(http.server.BaseHTTPRequestHandler):
    """A customer's endpoint: keeps what comes, answers as told."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((dict(self.headers), body))  # type: ignore[attr-defined]
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """A test's output is the test's."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def receiver() -> Iterator[Any]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    server.got, server.answers = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


@pytest.fixture
def lab(tmp_path: Path, receiver: Any) -> Lab:
    (tmp_path / "secret").write_text(f"whsec_{base64.b64encode(SECRET).decode()}")
    url = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
    target = {"kind": "webhook", "name": "ops", "url": url, "secret_file": str(tmp_path / "secret")}
    return furnished(tmp_path, [target])


def furnished(folder: Path, targets: list[dict[str, Any]]) -> Lab:
    (folder / "notifications.json").write_text(json.dumps({"acme-corp": targets}))

    def change(settings: Settings) -> Settings:
        return settings.model_copy(update={"notifications": folder / "notifications.json"})

    return console_lab.build(folder, change)


def notifier(lab: Lab) -> Notifier:
    return Notifier(lab.project, lab.house.engine, lab.house.settings)


def deliverer(lab: Lab) -> Deliverer:
    return Deliverer(lab.house.engine, lab.house.settings)


def warn(lab: Lab, tenant: str, text: str) -> None:
    lab.advance(layouts.changed(lab.records.tenant(tenant).layout, gate=Gate(warnings=(text,))))


def test_a_warning_reaches_the_customers_endpoint_signed_and_once(lab: Lab, receiver: Any) -> None:
    warn(lab, "acme", "the key was rotated")
    assert notifier(lab).look() == 1
    assert notifier(lab).look() == 0, "the same warning at the next look is no news"
    assert deliverer(lab).send_due() == 1
    assert deliverer(lab).send_due() == 0
    [(headers, body)] = receiver.got
    told = json.loads(body)
    assert (told["type"], told["tenant"], told["text"]) == ("warning", "acme", "the key was rotated")
    assert headers["webhook-id"] == told["id"]
    assert headers["webhook-signature"] == signature(SECRET, told["id"], headers["webhook-timestamp"], body)
    assert headers["webhook-signature"] != signature(b"another", told["id"], headers["webhook-timestamp"], body)


def test_another_customer_is_told_nothing(lab: Lab, receiver: Any) -> None:
    warn(lab, "globex-one", "the key of globex was rotated")
    assert notifier(lab).look() == 0
    warn(lab, "acme-two", "ours")
    assert notifier(lab).look() == 1
    deliverer(lab).send_due()
    assert [json.loads(body)["tenant"] for _, body in receiver.got] == ["acme-two"]


def test_what_is_not_taken_is_sent_again_under_the_same_id(lab: Lab, receiver: Any) -> None:
    receiver.answers = [500, 503]
    warn(lab, "acme", "look")
    notifier(lab).look()
    at = 1e12
    sender = deliverer(lab)
    assert sender.send_due(at) == 0
    assert sender.send_due(at) == 0, "the next attempt comes after a while, not at once"
    assert len(receiver.got) == 1
    assert sender.send_due(at + BACKOFF_SECONDS[0]) == 0
    assert sender.send_due(at + BACKOFF_SECONDS[0] + BACKOFF_SECONDS[1]) == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 3


def test_what_is_never_taken_is_given_up_after_a_day_and_says_why(lab: Lab, receiver: Any) -> None:
    receiver.answers = [500] * 50
    warn(lab, "acme", "look")
    notifier(lab).look()
    at, sender = 1e12, deliverer(lab)
    for wait in (*BACKOFF_SECONDS, 1e6, 1e6):
        sender.send_due(at)
        at += wait
    with lab.house.engine.connect() as connection:
        row = connection.execute(sql.select(NOTICES).where(NOTICES.c.body != "{}")).mappings().one()
    assert (row["state"], row["said"]) == ("given-up", "it answered 500")
    assert len(receiver.got) == len(BACKOFF_SECONDS)


def test_an_operation_that_ends_is_told_and_history_is_not(lab: Lab, receiver: Any) -> None:
    def operation(kind: OperationKind, state: str) -> str:
        made = lab.records.begin(lab.records.tenant("acme"), kind, None)
        lab.records.note(made.id, state=state, message=f"it is {state}")
        return made.id

    operation(OperationKind.CREATE, "done")
    notifier(lab).look()
    failed, done = operation(OperationKind.ENABLE, "failed"), operation(OperationKind.ENABLE, "done")
    assert notifier(lab).look() == 2
    deliverer(lab).send_due()
    told = {json.loads(body)["operation"]: json.loads(body)["type"] for _, body in receiver.got}
    assert told == {failed: "operation.failed", done: "operation.done"}


def test_the_end_of_a_wrapping_key_is_told_before_it_comes(lab: Lab, receiver: Any) -> None:
    from datetime import UTC, datetime, timedelta

    folder = lab.project.home / "tenants" / "acme" / "key-requests"
    for name, hours, material in (("soon", 3, ""), ("later", 20, ""), ("used", 3, "m-1"), ("over", -1, "")):
        (folder / name).mkdir(parents=True)
        until = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
        (folder / name / "request.json").write_text(json.dumps({"valid_to": until, "key_material_id": material}))
    notifier(lab).look()
    deliverer(lab).send_due()
    assert ["soon" in json.loads(body)["text"] for _, body in receiver.got] == [True]


def test_a_key_that_ends_soon_is_told_and_a_cloud_that_is_away_stops_nothing(
    lab: Lab, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from console import notify

    lab.advance(layouts.changed(layouts.byok_active(), gate=Gate(warnings=("look",))))

    def away(*_: Any) -> Any:
        raise OSError("no cloud")

    monkeypatch.setattr(notify.tenants, "keys", away)
    assert notifier(lab).look() == 1, "the warning is told all the same"

    def keys(*_: Any) -> Any:
        ends = [(datetime.now(UTC) + timedelta(days=days)).isoformat() for days in (3, 30)]
        return [{"id": "k1", "ends_at": ends[0]}, {"id": "k2", "ends_at": ends[1]}, {"id": "k3", "ends_at": None}]

    monkeypatch.setattr(notify.tenants, "keys", keys)
    assert notifier(lab).look() == 1
    deliverer(lab).send_due()
    told = [json.loads(body) for _, body in receiver.got]
    assert ["the key k1 ends on" in one["text"] for one in told if one["type"] == "key.expires"] == [True]


def test_a_mail_is_sent_with_an_id_of_its_own(tmp_path: Path) -> None:
    got: list[Any] = []

    class Keeper:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
            got.append(envelope)
            return "250 taken"

    controller = Controller(Keeper(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        port = controller.port
        mail = {"kind": "smtp", "name": "mail", "server": f"127.0.0.1:{port}", "sender": "archive@vendor.example",
                "to": ["keys@acme.example"], "starttls": False}  # fmt: skip
        lab = furnished(tmp_path, [mail])
        warn(lab, "acme", "the key was rotated")
        notifier(lab).look()
        assert deliverer(lab).send_due() == 1
    finally:
        controller.stop()
    [envelope] = got
    text = envelope.content.decode()
    assert envelope.rcpt_tos == ["keys@acme.example"]
    assert "Subject: Archive acme: warning" in text
    assert "the key was rotated" in text
    assert "Message-ID: <" in text


def test_a_mail_is_not_sent_in_clear_where_tls_was_asked_for(tmp_path: Path) -> None:
    class Deaf:
        async def handle_DATA(self, *_: Any) -> str:
            raise AssertionError("it was sent in clear")

    controller = Controller(Deaf(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        port = controller.port
        mail = {
            "kind": "smtp",
            "name": "mail",
            "server": f"127.0.0.1:{port}",
            "sender": "a@v.example",
            "to": ["k@a.example"],
        }
        lab = furnished(tmp_path, [mail])
        warn(lab, "acme", "look")
        notifier(lab).look()
        assert deliverer(lab).send_due() == 0
    finally:
        controller.stop()


def test_targets_that_cannot_be_used_stop_the_worker_at_its_start(tmp_path: Path) -> None:
    lab = furnished(tmp_path, [{"kind": "pigeon", "name": "x"}])
    with pytest.raises(RefusedInput, match="cannot be used"):
        notifier(lab)
