"""What is told to a customer's own systems: warnings, operations that ended or wait, keys that run out.

It reads the records, so that what an operator began by the command line is told too. The same fact has the same
id for the same target, whoever looks and how often.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import sqlalchemy as sql
import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy.exc import IntegrityError

from console.settings import Settings
from console.store import NOTICES
from migrate import failures, tenants
from migrate.errors import RefusedInput
from migrate.keys.imported import REQUEST_FILE
from migrate.records import Operation, Records
from migrate.stack import Project
from stacks.record import TenantRecord, connect

EXPIRES_WITHIN = timedelta(hours=6)
"""How long before a wrapping key runs out the customer hears of it; KMS gives one for 24 hours."""
ENDS_WITHIN = timedelta(days=7)
"""How long before a key itself ends (deleted, run out) the customer hears of it; KMS deletes after 7 days at least."""
KEYS_ASKED_EVERY = 3600.0
TOLD = frozenset({"done", "failed", "waiting", "aborted"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Webhook(_Frozen):
    """Signed as Standard Webhooks says (standardwebhooks.com); the secret is `whsec_` and base64, in a file."""

    kind: Literal["webhook"]
    name: str
    url: str
    secret_file: str


class Mail(_Frozen):
    """`server` is host:port. With `starttls` (the default) nothing is sent in clear."""

    kind: Literal["smtp"]
    name: str
    server: str
    sender: str
    to: tuple[str, ...]
    starttls: bool = True
    user: str | None = None
    password_file: str | None = None


Target = Annotated[Webhook | Mail, Field(discriminator="kind")]
TARGETS: TypeAdapter[dict[str, tuple[Target, ...]]] = TypeAdapter(dict[str, tuple[Target, ...]])


class Notice(_Frozen):
    """One fact, as a target gets it."""

    id: str
    type: Literal[
        "warning", "operation.done", "operation.failed", "operation.waiting", "operation.aborted", "key.expires"
    ]
    at: str
    customer: str
    tenant: str
    operation: str | None = None
    text: str


def targets(settings: Settings) -> dict[str, tuple[Target, ...]]:
    """Customer → targets. Raises RefusedInput for a file that cannot be used."""
    if settings.notifications is None:
        return {}
    try:
        return TARGETS.validate_json(settings.notifications.read_bytes())
    except (OSError, ValidationError) as error:
        raise RefusedInput(
            f"the notifications' file {settings.notifications} cannot be used: {error}",
            hint="see docs/console.md for its form",
            code="console-settings",
        ) from error


class Notifier:
    """Finds what is to be told and puts it down for the deliverer."""

    def __init__(self, project: Project, engine: sql.Engine, settings: Settings) -> None:
        self._project, self._engine = project, engine
        self._targets = targets(settings)
        self._asked_at: dict[str, float] = {}  # tenant → when its keys' cloud was asked, on the monotonic clock

    def look(self) -> int:
        """How many notices are new."""
        if not self._targets:
            return 0
        records = Records(connect(self._project.home))
        return sum(self._note(tenant, records) for tenant in records.tenants() if tenant.customer in self._targets)

    def _note(self, tenant: TenantRecord, records: Records) -> int:
        found = list(self._facts(tenant, records.operations(tenant.name)))
        return sum(self._put(target, tenant, found) for target in self._targets[tenant.customer])

    def _facts(self, tenant: TenantRecord, operations: list[Operation]) -> Iterator[Notice]:
        newest = operations[-1].id if operations else None
        for text in tenant.layout.gate.warnings:
            yield _notice(tenant, "warning", text, operation=newest)
        for operation in operations:
            if operation.state in TOLD:
                said = operation.message or f"{operation.kind} has ended"
                yield _notice(tenant, f"operation.{operation.state}", said, operation=operation.id)
        for key, until in self._requests(tenant.name):
            text = (
                f"the public key for wrapping {key} is good until {until:%Y-%m-%d %H:%M} UTC; after it ask for another"
            )
            yield _notice(tenant, "key.expires", text)
        for key, until in self._ending_keys(tenant):
            text = f"the key {key} ends on {until:%Y-%m-%d %H:%M} UTC; what lies under it can never be read again then"
            yield _notice(tenant, "key.expires", text)

    def _ending_keys(self, tenant: TenantRecord) -> Iterator[tuple[str, datetime]]:
        """(key, until when) of keys whose cloud says that they end soon; asked now and then only."""
        last = self._asked_at.get(tenant.name)
        if not tenant.layout.keys or (last is not None and time.monotonic() - last < KEYS_ASKED_EVERY):
            return
        self._asked_at[tenant.name] = time.monotonic()
        try:
            rows = tenants.keys(self._project, tenant.name)
        except Exception as error:  # noqa: BLE001 - the other notices do not wait for a cloud
            said = failures.explained(error).message
            structlog.get_logger().warning("a tenant's keys were not looked at", tenant=tenant.name, because=said)
            return
        now = datetime.now(UTC)
        for row in rows:
            until = datetime.fromisoformat(row["ends_at"]) if row["ends_at"] else None
            if until is not None and now < until <= now + ENDS_WITHIN:
                yield row["id"], until

    def _requests(self, tenant: str) -> Iterator[tuple[str, datetime]]:
        """(key, until when) of requests that run out soon and that nothing was uploaded for."""
        now = datetime.now(UTC)
        for file in (tenants.folder(self._project, tenant) / "key-requests").glob(f"*/{REQUEST_FILE}"):
            request = json.loads(file.read_bytes())
            until = datetime.fromisoformat(request["valid_to"])
            if not request["key_material_id"] and now < until <= now + EXPIRES_WITHIN:
                yield file.parent.name, until

    def _put(self, target: Target, tenant: TenantRecord, found: list[Notice]) -> int:
        """What was over before a target was set up is not told to it."""
        is_first = self._insert(f"baseline/{target.name}/{tenant.name}", target, tenant, None, "sent") == 1
        new = 0
        for notice in found:
            is_past = is_first and notice.type.startswith("operation.") and notice.type != "operation.waiting"
            new += self._insert(f"{target.name}/{notice.id}", target, tenant, notice, "sent" if is_past else "waits")
        return new

    def _insert(self, id: str, target: Target, tenant: TenantRecord, notice: Notice | None, state: str) -> int:
        row: dict[str, Any] = {
            "id": id,
            "customer": tenant.customer,
            "target": target.name,
            "body": notice.model_dump_json() if notice else "{}",
            "attempts": 0,
            "next_at": time.time(),
            "state": state,
        }
        with self._engine.connect() as connection:
            if connection.execute(sql.select(NOTICES.c.id).where(NOTICES.c.id == id)).first() is not None:
                return 0
        try:
            with self._engine.begin() as connection:
                connection.execute(NOTICES.insert().values(row))
        except IntegrityError:
            return 0  # another worker has just put it down
        return 1


def _notice(tenant: TenantRecord, type: Any, text: str, *, operation: str | None = None) -> Notice:
    facts = "\n".join((tenant.name, type, operation or "", text))
    return Notice(
        id=hashlib.sha256(facts.encode()).hexdigest()[:32],
        type=type,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        customer=tenant.customer,
        tenant=tenant.name,
        operation=operation,
        text=text,
    )
