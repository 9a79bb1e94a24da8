"""The gate before Azurite's queues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit
from sandbox.azure.azurite import Azurite, backend_name
from sandbox.azure.door import Door, response
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.elastic.web import Request, Response

_QUEUES = "Microsoft.Storage/storageAccounts/queueServices/queues"
_MESSAGES = f"{_QUEUES}/messages"


@dataclass(frozen=True)
class Operation:
    """`actions`: one of them is enough (Docs: permissions for queue service operations)."""

    actions: tuple[str, ...]
    is_data: bool = True
    query: frozenset[str] = frozenset()


_READ_QUEUE = Operation((f"{_QUEUES}/read",), is_data=False)
# (level, method, comp); a GET of messages is Peek with peekonly=true, else Get.
TABLE: Mapping[tuple[str, str, str], Operation] = {
    ("queue", "GET", "metadata"): _READ_QUEUE,
    ("queue", "HEAD", "metadata"): _READ_QUEUE,
    ("messages", "POST", ""): Operation(
        (f"{_MESSAGES}/add/action", f"{_MESSAGES}/write"), query=frozenset({"visibilitytimeout", "messagettl"})
    ),
    ("messages", "GET", ""): Operation(
        (f"{_MESSAGES}/process/action",), query=frozenset({"numofmessages", "visibilitytimeout"})
    ),
    ("messages", "DELETE", ""): Operation((f"{_MESSAGES}/delete",)),
    ("message", "DELETE", ""): Operation(
        (f"{_MESSAGES}/process/action", f"{_MESSAGES}/delete"), query=frozenset({"popreceipt"})
    ),
    ("message", "PUT", ""): Operation((f"{_MESSAGES}/write",), query=frozenset({"popreceipt", "visibilitytimeout"})),
}
_PEEK = Operation((f"{_MESSAGES}/read",), query=frozenset({"numofmessages", "peekonly"}))


class QueueGate:
    """Answers what comes to the queue port."""

    def __init__(self, kit: Kit, azurite: Azurite) -> None:
        self._kit = kit
        self._azurite = azurite
        self._door = Door(kit, "queue")

    def answer(self, request: Request) -> Response:
        account = None
        try:
            account = self._door.account(request)
            return self._answer(account, request)
        except AzureError as error:
            return self._door.refused(error, account)

    def _answer(self, account: Document, request: Request) -> Response:
        caller = self._door.caller(request.headers.get("Authorization", ""), account)
        self._door.check_open(account)
        name, rest = _place(request)
        operation = _operation(rest, request)
        scope = f"{account['id']}/queueServices/default/queues/{name}"
        if not any(
            self._kit.rbac.is_allowed(caller.principal, action, scope, is_data=operation.is_data)
            for action in operation.actions
        ):
            raise refusals.PERMISSION_MISMATCH.error()
        if self._kit.world.store.get("queue", f"{account['name']}/{name}") is None:
            raise refusals.NO_QUEUE.error()
        path = "/".join(("", backend_name(account, name), *(quote(part, safe="") for part in rest)))
        query = urlencode({key: value for key, value in request.query.items() if key != "timeout"})
        headers = {"content-type": request.headers.get("Content-Type") or "application/xml"}
        return response(
            self._azurite.request("queue", request.method, path, query, headers=headers, body=request.body),
            is_head=request.method == "HEAD",
        )


def _place(request: Request) -> tuple[str, tuple[str, ...]]:
    parts = request.segments[1:]
    return (parts[0] if parts else ""), parts[1:]


def _operation(rest: tuple[str, ...], request: Request) -> Operation:
    """What is asked for, if the gate offers it. Raises AzureError."""
    level = {0: "queue", 1: "messages", 2: "message"}.get(len(rest), "")
    if rest and rest[0] != "messages":
        level = ""
    operation = TABLE.get((level, request.method, request.query.get("comp", "")))
    if operation is not None and level == "messages" and request.method == "GET" and "peekonly" in request.query:
        operation = _PEEK
    if operation is None or set(request.query) - operation.query - {"comp", "timeout"}:
        raise refusals.NOT_IN_TABLE.error(what=f"{request.method} of a {level or 'path'} with {sorted(request.query)}")
    return operation
