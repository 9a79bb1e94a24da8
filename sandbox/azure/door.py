"""What the gates of blobs and queues share: which account, who calls, may they, and errors in Storage's form."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit
from sandbox.azure.azurite import Reply
from sandbox.azure.directory import Caller
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.tokens import TokenError
from sandbox.azure.world import STORAGE, SUBSCRIPTIONS, new_id
from sandbox.elastic.web import Request, Response

_HOP = ("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding")


@dataclass(frozen=True)
class Door:
    """`service` is `blob` or `queue`."""

    kit: Kit
    service: str

    def account(self, request: Request) -> Document:
        """The account that the path begins with. Raises AzureError."""
        name = request.segments[0] if request.segments else ""
        account = self.kit.world.store.get("account", name)
        if account is None:
            raise refusals.NO_ACCOUNT.error()
        return account

    def caller(self, authorization: str, account: Document) -> Caller:
        """Who holds this header's token. Raises AzureError."""
        kind, _, token = authorization.partition(" ")
        if kind in {"SharedKey", "SharedKeyLite"}:
            raise refusals.SHARED_KEY.error()
        if kind != "Bearer":
            raise refusals.NO_AUTHENTICATION.error()
        own = (self.kit.world.blob_endpoint if self.service == "blob" else self.kit.world.queue_endpoint)(
            account["name"]
        )
        try:
            caller = self.kit.directory.caller(token, (STORAGE, own.rstrip("/")))
        except TokenError as error:
            raise refusals.BAD_AUTHENTICATION.error(why=error) from error
        if caller.tenant != SUBSCRIPTIONS[account["id"].split("/")[2]]:
            raise refusals.BAD_AUTHENTICATION.error(why="Issuer validation failed. Issuer did not match")
        return caller

    def check_open(self, account: Document) -> None:
        """Refuses an account that is closed to the network: every caller here comes over it. Raises AzureError."""
        settings = account["settings"]
        if settings["publicNetworkAccess"] != "Enabled" or settings["networkAcls"]["defaultAction"] != "Allow":
            raise refusals.NETWORK_CLOSED.error()

    def check(self, caller: Caller, action: str, scope: str, *, is_data: bool) -> None:
        """Raises AzureError unless a role of the caller's grants this."""
        if not self.kit.rbac.is_allowed(caller.principal, action, scope, is_data=is_data):
            raise refusals.PERMISSION_MISMATCH.error()

    def refused(self, error: AzureError, account: Document | None) -> Response:
        """Storage's form of an error: the code in a header, and both in XML."""
        text = f"{error.message}\nRequestId:{new_id()}"
        body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{error.code}</Code><Message>{escape(text)}</Message></Error>'
        headers = [("content-type", "application/xml"), ("x-ms-error-code", error.code), ("x-ms-request-id", new_id())]
        if error.status == 401:
            tenant = SUBSCRIPTIONS[account["id"].split("/")[2]] if account else "common"
            uri = f"{self.kit.world.url}/{tenant}/oauth2/authorize"
            headers.append(("www-authenticate", f"Bearer authorization_uri={uri} resource_id={STORAGE}"))
        return Response(error.status, body.encode(), tuple(headers))


def response(reply: Reply, *, is_head: bool = False, body: bytes | None = None) -> Response:
    """A reply of Azurite's, without what belongs to its own connection."""
    kept = [(name, value) for name, value in reply.headers if name.lower() not in _HOP]
    if is_head and (length := reply.header("content-length")):
        kept.append(("content-length", length))
    return Response(reply.status, reply.body if body is None else body, tuple(kept))
