"""Orders: what people asked for, kept until a worker has done it, and every event on the way.

An order is written before anybody is told that it was taken, so a death of the API loses none. Who writes its
events is one process; who reads them may come back at any number.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from console.callers import Caller
from console.problems import Refused
from console.store import EVENTS, ORDERS

Data = dict[str, Any]


class Kind(StrEnum):
    """What can be asked for. `plan` and `check` look only; `follow` looks where the customer's alias leads."""

    PLAN = "plan"
    CHECK = "check"
    REQUEST = "request"
    ONBOARD = "onboard"
    ENABLE = "enable"
    CHANGE = "change"
    ROTATE = "rotate"
    FOLLOW = "follow"
    CONFIRM = "confirm"
    REMOVE = "remove"
    RESUME = "resume"
    ABORT = "abort"
    REVOKE = "revoke"
    RESTORE = "restore"


class Lane(StrEnum):
    """Orders of one lane wait for each other. A revocation waits for nothing, a look disturbs nothing."""

    WORK = "work"
    LOCK = "lock"
    LOOK = "look"


LANES = {
    Kind.PLAN: Lane.LOOK,
    Kind.CHECK: Lane.LOOK,
    Kind.REVOKE: Lane.LOCK,
    Kind.RESTORE: Lane.LOCK,
}
DESTRUCTIVE = frozenset({Kind.REVOKE, Kind.REMOVE, Kind.RESTORE})
"""What takes a phrase, a fresh sign-in and, where the customer wants it, a second person."""

PAGE = 500

TO_APPROVE, QUEUED, RUNNING = "to-approve", "queued", "running"
DONE, WAITING, FAILED, REFUSED, WITHDRAWN = "done", "waiting", "failed", "refused", "withdrawn"


@dataclass(frozen=True, kw_only=True)
class Order:
    id: str
    tenant: str
    customer: str
    kind: Kind
    wanted: Data
    asked_by: Data
    approved_by: Data | None
    asked_at: str
    state: str
    operation: str | None
    attempts: int
    started_at: str | None
    ended_at: str | None
    said: Data | None
    result: Data | None

    @property
    def lane(self) -> Lane:
        return lane_of(self.kind)

    def data(self) -> Data:
        """As the API shows it."""
        shown = {name: value for name, value in self.__dict__.items() if name not in {"attempts", "customer", "wanted"}}
        return {**shown, "kind": str(self.kind), "lane": str(self.lane), "wanted": self.wanted}


def lane_of(kind: Kind) -> Lane:
    return LANES.get(kind, Lane.WORK)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for: `values` are those of its kind (mode, alias, token, reason…)."""

    tenant: str
    customer: str
    kind: Kind
    values: Data

    def fingerprint(self) -> str:
        asked = json.dumps([self.tenant, str(self.kind), self.values], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


class Orders:
    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def put(self, wanted: Wanted, caller: Caller, *, state: str, repeat: str) -> Order:
        """A new order. Raises Refused while another one of the same tenant and lane is open."""
        known = f"{caller.id}/{repeat}"
        id = f"op-{secrets.token_hex(10)}"
        row = {
            "id": id,
            "tenant": wanted.tenant,
            "customer": wanted.customer,
            "lane": str(lane_of(wanted.kind)),
            "kind": str(wanted.kind),
            "wanted": json.dumps(wanted.values),
            "asked_by": json.dumps(_person(caller)),
            "asked_at": _now(),
            "state": state,
            "attempts": 0,
            "handed_over": False,
            "repeat": known,
            "fingerprint": wanted.fingerprint(),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(ORDERS.insert().values(row))
                self._append(connection, id, "order", {"state": state})
        except IntegrityError as error:
            if (before := self.repeated(caller, wanted, repeat)) is not None:
                return before  # the same request came twice in one moment
            raise self._open_already(wanted) from error
        return self.get(id)

    def repeated(self, caller: Caller, wanted: Wanted, repeat: str) -> Order | None:
        """The order that was put under this idempotency key. Raises Refused when it was another one."""
        mine = ORDERS.c.repeat == f"{caller.id}/{repeat}"
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(ORDERS).where(mine)).mappings().first()
        if row is None:
            return None
        if row["fingerprint"] != wanted.fingerprint():
            raise Refused(
                "this Idempotency-Key was used for another request; nothing was begun",
                code="idempotency-key-reused",
                hint="make a new key for each thing that you ask for",
            )
        return _order(row)

    def _open_already(self, wanted: Wanted) -> Refused:
        lane = lane_of(wanted.kind)
        open_one = next((one for one in self.of(wanted.tenant) if one.ended_at is None and one.lane is lane), None)
        about = f"{open_one.kind} ({open_one.id}) is {open_one.state}" if open_one else "another one has just ended"
        return Refused(
            f"nothing was begun: for tenant {wanted.tenant} {about}",
            code="order-open",
            hint="follow that one to its end, then ask again",
        )

    def approve(self, order: Order, caller: Caller) -> Order:
        """The second person's yes. Raises Refused for the first one, and when there is nothing to approve."""
        if order.asked_by["id"] == caller.id:
            raise Refused(
                "who has asked for it cannot be its second person",
                code="not-allowed",
                hint="another administrator of the same customer has to approve it",
            )
        self._turn(order, TO_APPROVE, {"state": QUEUED, "approved_by": json.dumps(_person(caller))})
        return self.get(order.id)

    def withdraw(self, order: Order) -> Order:
        self._turn(order, TO_APPROVE, {"state": WITHDRAWN, "ended_at": _now()})
        return self.get(order.id)

    def _turn(self, order: Order, before: str, values: Data) -> None:
        with self._engine.begin() as connection:
            turned = connection.execute(
                ORDERS.update().where(ORDERS.c.id == order.id, ORDERS.c.state == before).values(values)
            )
            if turned.rowcount != 1:
                raise Refused(
                    f"{order.id} does not wait for a second person", code="order-ended", hint="look at it once more"
                )
            self._append(connection, order.id, "order", {"state": values["state"]})

    # what the workers do ----------------------------------------------------------------------

    def to_hand_over(self) -> list[Order]:
        """Queued orders that no queue holds yet, the oldest first."""
        where = sql.and_(ORDERS.c.state == QUEUED, ORDERS.c.handed_over.is_(False))
        return self._select(where)

    def handed_over(self, id: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(ORDERS.update().where(ORDERS.c.id == id).values(handed_over=True))

    def start(self, id: str) -> Order:
        """One more attempt at an order."""
        with self._engine.begin() as connection:
            connection.execute(
                ORDERS.update()
                .where(ORDERS.c.id == id, ORDERS.c.ended_at.is_(None))
                .values(
                    state=RUNNING,
                    attempts=ORDERS.c.attempts + 1,
                    started_at=sql.func.coalesce(ORDERS.c.started_at, _now()),
                )
            )
            self._append(connection, id, "order", {"state": RUNNING})
        return self.get(id)

    def note_operation(self, id: str, operation: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(ORDERS.update().where(ORDERS.c.id == id).values(operation=operation))

    def tell(self, id: str, name: str, data: Data) -> None:
        with self._engine.begin() as connection:
            self._append(connection, id, name, data)

    def end(self, id: str, state: str, *, said: Data | None = None, result: Data | None = None) -> None:
        """The last event and the outcome, both or neither; an order that has ended stays as it is."""
        with self._engine.begin() as connection:
            ended = connection.execute(
                ORDERS.update()
                .where(ORDERS.c.id == id, ORDERS.c.ended_at.is_(None))
                .values(
                    state=state,
                    ended_at=_now(),
                    said=json.dumps(said) if said else None,
                    result=json.dumps(result, default=str) if result is not None else None,
                )
            )
            if ended.rowcount == 1:
                self._append(connection, id, "end", {"state": state, **(said or {})})

    # reading ----------------------------------------------------------------------------------

    def get(self, id: str) -> Order:
        """Raises Refused (not-found) when there is none."""
        found = self._select(ORDERS.c.id == id)
        if not found:
            raise Refused(f"there is no order {id}", code="not-found")
        return found[0]

    def of(self, tenant: str) -> list[Order]:
        """Oldest first."""
        return self._select(ORDERS.c.tenant == tenant)

    def events(self, id: str, after: int, limit: int = PAGE) -> list[tuple[int, str, str]]:
        """(number, name, JSON) after a number, in order."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                sql.select(EVENTS.c.number, EVENTS.c.name, EVENTS.c.data)
                .where(EVENTS.c.order == id, EVENTS.c.number > after)
                .order_by(EVENTS.c.number)
                .limit(limit)
            ).all()
        return [(int(number), str(name), str(data)) for number, name, data in rows]

    def _select(self, where: sql.ColumnElement[bool]) -> list[Order]:
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(ORDERS).where(where).order_by(ORDERS.c.asked_at, ORDERS.c.id))
            return [_order(row) for row in rows.mappings()]

    @staticmethod
    def _append(connection: sql.Connection, id: str, name: str, data: Data) -> None:
        number = connection.execute(
            sql.select(sql.func.coalesce(sql.func.max(EVENTS.c.number), 0) + 1).where(EVENTS.c.order == id)
        ).scalar_one()
        connection.execute(
            EVENTS.insert().values(order=id, number=number, name=name, data=json.dumps({"at": _now(), **data}))
        )


def open_of(orders: Iterable[Order]) -> list[Order]:
    return [order for order in orders if order.ended_at is None]


def _order(row: sql.RowMapping) -> Order:
    loaded: dict[str, Any] = {
        name: json.loads(row[name]) if row[name] else None for name in ("approved_by", "said", "result")
    }
    plain: dict[str, Any] = {
        name: row[name]
        for name in ("id", "tenant", "customer", "asked_at", "state", "operation", "attempts", "started_at", "ended_at")
    }
    return Order(
        **plain,
        **loaded,
        kind=Kind(row["kind"]),
        wanted=json.loads(row["wanted"]),
        asked_by=json.loads(row["asked_by"]),
    )


def _person(caller: Caller) -> Data:
    return {"id": caller.id, "name": caller.name, "role": str(caller.role)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
