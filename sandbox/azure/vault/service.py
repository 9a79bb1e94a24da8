"""Key Vault's data plane: one port a vault, each request judged by Azure RBAC at the scope of its key or secret."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox.azure import refusals
from sandbox.azure.directory import Caller, Directory
from sandbox.azure.rbac import Rbac
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.tokens import TokenError
from sandbox.azure.vault.byok import decode, encode
from sandbox.azure.vault.keys import Keys
from sandbox.azure.vault.secrets import Secrets
from sandbox.azure.world import World
from sandbox.elastic.web import LoopbackServer, Request, Response, json_response

log = logging.getLogger(__name__)

Call = Callable[["Vaults", Document, dict[str, str], dict[str, Any]], tuple[int, Any]]
_KEYS, _SECRETS = "Microsoft.KeyVault/vaults/keys", "Microsoft.KeyVault/vaults/secrets"


@dataclass(frozen=True)
class Route:
    """One operation: what it is called by, the data action that it needs, what it does."""

    method: str
    path: re.Pattern[str]
    action: str
    call: Call


def _route(method: str, path: str, action: str, call: Call) -> Route:
    return Route(method, re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", path)), action, call)


def _wrap(vaults: Vaults, vault: Document, names: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
    kid, value = vaults.keys.wrap(vault, names["name"], names["version"], body.get("alg", ""), _bytes(body))
    return 200, {"kid": kid, "value": encode(value)}


def _unwrap(vaults: Vaults, vault: Document, names: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
    kid, value = vaults.keys.unwrap(vault, names["name"], names["version"], body.get("alg", ""), _bytes(body))
    return 200, {"kid": kid, "value": encode(value)}


def _bytes(body: dict[str, Any]) -> bytes:
    try:
        return decode(body["value"])
    except (KeyError, TypeError, ValueError) as error:
        raise refusals.BAD_PARAMETER.error(why="Property value has invalid value.") from error


def _purge(vaults: Vaults, vault: Document, names: dict[str, str], _body: dict[str, Any]) -> tuple[int, Any]:
    vaults.keys.purge(vault, names["name"])
    return 204, None


def _purge_secret(vaults: Vaults, vault: Document, names: dict[str, str], _body: dict[str, Any]) -> tuple[int, Any]:
    vaults.secrets.purge(vault, names["name"])
    return 204, None


# Docs: articles/key-vault/general/rbac-guide.md and the REST reference's table of permissions.
ROUTES = (
    _route(
        "PUT", "keys/<name>", f"{_KEYS}/import/action", lambda v, w, n, b: (200, v.keys.import_key(w, n["name"], b))
    ),
    _route(
        "POST", "keys/<name>/create", f"{_KEYS}/create/action", lambda v, w, n, b: (200, v.keys.create(w, n["name"], b))
    ),
    _route("POST", "keys/<name>/rotate", f"{_KEYS}/rotate/action", lambda v, w, n, _b: (200, v.rotated(w, n["name"]))),
    _route("GET", "keys", f"{_KEYS}/read", lambda v, w, _n, _b: (200, _page(v.keys.names(w, deleted=False)))),
    _route(
        "GET", "keys/<name>/versions", f"{_KEYS}/read", lambda v, w, n, _b: (200, _page(v.keys.versions(w, n["name"])))
    ),
    _route("GET", "keys/<name>", f"{_KEYS}/read", lambda v, w, n, _b: (200, v.keys.get(w, n["name"]))),
    _route(
        "GET",
        "keys/<name>/<version>",
        f"{_KEYS}/read",
        lambda v, w, n, _b: (200, v.keys.get(w, n["name"], n["version"])),
    ),
    _route(
        "PATCH",
        "keys/<name>/<version>",
        f"{_KEYS}/update/action",
        lambda v, w, n, b: (200, v.keys.update(w, n["name"], n["version"], b)),
    ),
    _route(
        "PATCH", "keys/<name>", f"{_KEYS}/update/action", lambda v, w, n, b: (200, v.keys.update(w, n["name"], "", b))
    ),
    _route("DELETE", "keys/<name>", f"{_KEYS}/delete", lambda v, w, n, _b: (200, v.keys.delete(w, n["name"]))),
    _route("POST", "keys/<name>/<version>/wrapkey", f"{_KEYS}/wrap/action", _wrap),
    _route("POST", "keys/<name>/<version>/unwrapkey", f"{_KEYS}/unwrap/action", _unwrap),
    _route("GET", "deletedkeys", f"{_KEYS}/read", lambda v, w, _n, _b: (200, _page(v.keys.names(w, deleted=True)))),
    _route("GET", "deletedkeys/<name>", f"{_KEYS}/read", lambda v, w, n, _b: (200, v.keys.deleted(w, n["name"]))),
    _route(
        "POST",
        "deletedkeys/<name>/recover",
        f"{_KEYS}/recover/action",
        lambda v, w, n, _b: (200, v.keys.recover(w, n["name"])),
    ),
    _route("DELETE", "deletedkeys/<name>", f"{_KEYS}/purge/action", _purge),
    _route(
        "PUT",
        "secrets/<name>",
        f"{_SECRETS}/setSecret/action",
        lambda v, w, n, b: (200, v.secrets.set(w, n["name"], b)),
    ),
    _route(
        "GET",
        "secrets",
        f"{_SECRETS}/readMetadata/action",
        lambda v, w, _n, _b: (200, _page(v.secrets.names(w, deleted=False))),
    ),
    _route(
        "GET",
        "secrets/<name>/versions",
        f"{_SECRETS}/readMetadata/action",
        lambda v, w, n, _b: (200, _page(v.secrets.versions(w, n["name"]))),
    ),
    _route(
        "GET", "secrets/<name>", f"{_SECRETS}/getSecret/action", lambda v, w, n, _b: (200, v.secrets.get(w, n["name"]))
    ),
    _route(
        "GET",
        "secrets/<name>/<version>",
        f"{_SECRETS}/getSecret/action",
        lambda v, w, n, _b: (200, v.secrets.get(w, n["name"], n["version"])),
    ),
    _route(
        "PATCH",
        "secrets/<name>/<version>",
        f"{_SECRETS}/update/action",
        lambda v, w, n, b: (200, v.secrets.update(w, n["name"], n["version"], b)),
    ),
    _route("DELETE", "secrets/<name>", f"{_SECRETS}/delete", lambda v, w, n, _b: (200, v.secrets.delete(w, n["name"]))),
    _route(
        "GET",
        "deletedsecrets",
        f"{_SECRETS}/readMetadata/action",
        lambda v, w, _n, _b: (200, _page(v.secrets.names(w, deleted=True))),
    ),
    _route(
        "GET",
        "deletedsecrets/<name>",
        f"{_SECRETS}/readMetadata/action",
        lambda v, w, n, _b: (200, v.secrets.deleted(w, n["name"])),
    ),
    _route(
        "POST",
        "deletedsecrets/<name>/recover",
        f"{_SECRETS}/recover/action",
        lambda v, w, n, _b: (200, v.secrets.recover(w, n["name"])),
    ),
    _route("DELETE", "deletedsecrets/<name>", f"{_SECRETS}/purge/action", _purge_secret),
)


def _page(items: list[Document]) -> Document:
    return {"value": items, "nextLink": None}


class Vaults:
    """The data plane of all vaults, and their servers."""

    def __init__(
        self,
        world: World,
        directory: Directory,
        rbac: Rbac,
        serve: Callable[[int, Callable[[Request], Response]], LoopbackServer],
    ) -> None:
        self.world = world
        self.keys = Keys(world)
        self.secrets = Secrets(world)
        self._directory = directory
        self._rbac = rbac
        self._serve = serve
        self._servers: dict[str, LoopbackServer] = {}
        self._lock = threading.Lock()

    # The servers

    def open_all(self) -> None:
        for _, vault in self.world.store.all("vault"):
            if not vault.get("deleted"):
                self.open(vault)

    def open(self, vault: Document) -> None:
        """Listen for a vault; one that is deleted has no address any more."""
        with self._lock:
            if vault["name"] not in self._servers:
                name = vault["name"]
                self._servers[name] = self._serve(vault["port"], lambda request: self.answer(name, request))

    def close(self, name: str) -> None:
        with self._lock:
            server = self._servers.pop(name, None)
        if server is not None:
            server.close()

    def close_all(self) -> None:
        for name in list(self._servers):
            self.close(name)

    def by_uri(self, uri: str) -> Document | None:
        """The vault of a URI, None if it is none or was deleted."""
        for _, vault in self.world.store.all("vault"):
            if vault["uri"].rstrip("/") == uri.rstrip("/") and not vault.get("deleted"):
                return vault
        return None

    # Requests

    def answer(self, name: str, request: Request) -> Response:
        vault = self.world.store.get("vault", name)
        assert vault is not None
        try:
            caller = self._caller(vault, request)
            route, names = _routed(request)
            self.check(vault, caller, route.action, names.get("name", ""), "/".join(request.segments))
            status, document = route.call(self, vault, names, request.json())
        except AzureError as error:
            return self._refused(vault, error)
        return Response(status) if document is None else json_response(status, document)

    def check(self, vault: Document, caller: Caller, action: str, name: str, resource: str) -> None:
        """Refuses a caller whom no role lets do this. Raises AzureError."""
        kind = "secrets" if action.startswith(_SECRETS) else "keys"
        scope = f"{vault['id']}/{kind}/{name}" if name else vault["id"]
        if not self._rbac.is_allowed(caller.principal, action, scope, is_data=True):
            raise refusals.FORBIDDEN_BY_RBAC.error(
                app=caller.app, principal=caller.principal, action=action, resource=f"{vault['id']}/{resource}"
            )

    def rotated(self, vault: Document, name: str) -> Document:
        """A new version like the latest."""
        present = self.keys.get(vault, name)
        key = present["key"]
        size = len(decode(key["n"])) * 8
        return self.keys.create(
            vault, name, {"kty": key["kty"], "key_ops": key["key_ops"], "key_size": size, "tags": present["tags"]}
        )

    def _caller(self, vault: Document, request: Request) -> Caller:
        header = request.headers.get("Authorization", "")
        if not header.startswith("Bearer "):
            raise refusals.UNAUTHORIZED.error()
        try:
            caller = self._directory.caller(header.removeprefix("Bearer "), (vault["audience"],))
        except TokenError as error:
            raise refusals.UNAUTHORIZED_TOKEN.error(why=error) from error
        if caller.tenant != vault["tenant"]:
            raise refusals.UNAUTHORIZED_TOKEN.error(why=f"its tenant is {caller.tenant}, the vault's {vault['tenant']}")
        return caller

    def _refused(self, vault: Document, error: AzureError) -> Response:
        body: Document = {"code": error.code, "message": error.message}
        if error.inner:
            body["innererror"] = {"code": error.inner}
        challenge = f'Bearer authorization="{self.world.url}/{vault["tenant"]}", resource="{vault["audience"]}"'
        headers = (("www-authenticate", challenge),) if error.status == 401 else ()
        return json_response(error.status, {"error": body}, *headers)


def _routed(request: Request) -> tuple[Route, dict[str, str]]:
    path = "/".join(request.segments)
    for route in ROUTES:
        found = route.path.fullmatch(path)
        if route.method == request.method and found:
            return route, found.groupdict()
    raise refusals.NOT_OFFERED.error(what=f"{request.method} /{path} of Key Vault")
