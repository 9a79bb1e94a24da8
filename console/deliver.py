"""Sends notices: at least once, with the notice's id, so that a receiver can leave out what it has already."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import smtplib
import ssl
import time
from email.message import EmailMessage
from pathlib import Path

import httpx
import sqlalchemy as sql
import structlog

from console.notify import Mail, Notice, Webhook, targets
from console.settings import Settings
from console.store import NOTICES

BACKOFF_SECONDS = (5, 30, 120, 600, 3600, 3600 * 3, 3600 * 6, 3600 * 12)
"""How long after each failed attempt the next one comes; after the last, in about a day, it is given up."""
TIMEOUT_SECONDS = 10.0
PREFIX = "whsec_"


class NotSent(Exception):
    """A target did not take a notice; `for_good`: it never will."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


class Deliverer:
    def __init__(self, engine: sql.Engine, settings: Settings, http: httpx.Client | None = None) -> None:
        self._engine = engine
        self._targets = {
            (customer, target.name): target for customer, several in targets(settings).items() for target in several
        }
        self._http = http or httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False)

    def send_due(self, now: float | None = None) -> int:
        """Sends what is due; returns how many were taken."""
        at = time.time() if now is None else now
        with self._engine.connect() as connection:
            due = (
                connection.execute(
                    sql.select(NOTICES)
                    .where(NOTICES.c.state == "waits", NOTICES.c.next_at <= at)
                    .order_by(NOTICES.c.next_at)
                )
                .mappings()
                .all()
            )
        return sum(self._sent(row, at) for row in due)

    def _sent(self, row: sql.RowMapping, at: float) -> bool:
        if not self._claimed(row, at):
            return False
        target = self._targets.get((row["customer"], row["target"]))
        notice = Notice.model_validate_json(row["body"])
        try:
            self._send(target, notice)
        except NotSent as failed:
            is_over = failed.for_good or row["attempts"] + 1 >= len(BACKOFF_SECONDS)
            self._note(row["id"], state="given-up" if is_over else "waits", said=str(failed))
            structlog.get_logger().warning(
                "a notice was not taken", notice=row["id"], because=str(failed), over=is_over
            )
            return False
        self._note(row["id"], state="sent", said=None)
        return True

    def _send(self, target: Webhook | Mail | None, notice: Notice) -> None:
        if target is None:
            raise NotSent("the target is not set up any more", for_good=True)
        if isinstance(target, Webhook):
            self._post(target, notice)
        else:
            _mail(target, notice)

    def _claimed(self, row: sql.RowMapping, at: float) -> bool:
        """Takes one attempt, so that two workers do not send it in the same moment."""
        wait = BACKOFF_SECONDS[min(row["attempts"], len(BACKOFF_SECONDS) - 1)]
        with self._engine.begin() as connection:
            taken = connection.execute(
                NOTICES.update()
                .where(NOTICES.c.id == row["id"], NOTICES.c.attempts == row["attempts"], NOTICES.c.state == "waits")
                .values(attempts=row["attempts"] + 1, next_at=at + wait)
            )
        return taken.rowcount == 1

    def _note(self, id: str, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(NOTICES.update().where(NOTICES.c.id == id).values(values))

    def _post(self, target: Webhook, notice: Notice) -> None:
        body, at = notice.model_dump_json().encode(), str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "webhook-id": notice.id,
            "webhook-timestamp": at,
            "webhook-signature": signature(_secret(target), notice.id, at, body),
        }
        try:
            answer = self._http.post(target.url, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise NotSent(f"{type(error).__name__}: {error}") from error
        if not answer.is_success:
            raise NotSent(f"it answered {answer.status_code}", for_good=answer.status_code == 410)


def signature(secret: bytes, id: str, at: str, body: bytes) -> str:
    """`v1,` and the base64 HMAC-SHA-256 over id, time and body."""
    digest = hmac.new(secret, b".".join((id.encode(), at.encode(), body)), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _secret(target: Webhook) -> bytes:
    try:
        text = Path(target.secret_file).read_text().strip()
        return base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (OSError, binascii.Error) as error:
        raise NotSent(f"the secret of {target.name} cannot be read: {type(error).__name__}") from error


def _mail(target: Mail, notice: Notice) -> None:
    message = EmailMessage()
    message["Subject"] = f"Archive {notice.tenant}: {notice.type.replace('.', ' ')}"
    message["From"] = target.sender
    message["To"] = ", ".join(target.to)
    # The receiving side leaves out a second one of the same id.
    message["Message-ID"] = f"<{notice.id}@keyshift.invalid>"
    lines = [notice.text, "", f"tenant: {notice.tenant}", f"at: {notice.at}"]
    message.set_content("\n".join([*lines, f"operation: {notice.operation}"] if notice.operation else lines))
    host, _, port = target.server.rpartition(":")
    try:
        with smtplib.SMTP(host, int(port), timeout=TIMEOUT_SECONDS) as smtp:
            if target.starttls:
                smtp.starttls(context=ssl.create_default_context())
            if target.user and target.password_file:
                smtp.login(target.user, Path(target.password_file).read_text().strip())
            smtp.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise NotSent(f"{type(error).__name__}: {error}") from error
