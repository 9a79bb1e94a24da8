"""Requests to the blob endpoint: judged here, carried out by Azurite."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape, quoteattr

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit
from sandbox.azure.arm.storage import drop_container, make_container
from sandbox.azure.azurite import ACCOUNT, Azurite, Reply, backend_name
from sandbox.azure.blob.table import READ, READ_TAGS, TABLE, WRITE_TAGS, Operation
from sandbox.azure.directory import Caller
from sandbox.azure.door import Door, response
from sandbox.azure.events import Change, Events
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.elastic.web import Request, Response

LONGEST_NAME = 1024
MOST_METADATA = 8 * 1024
MOST_TAGS = 10
LARGEST_SYNC_COPY = 256 * 1024 * 1024
_ALWAYS = {"restype", "comp", "timeout"}
_SAS = "sig"
_PASSED_ON = (
    "content-encoding",
    "content-language",
    "content-md5",
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_OWN = ("x-ms-copy-source", "x-ms-copy-source-authorization", "x-ms-date", "x-ms-version")
# Azurite answers 201 to these and protects nothing.
_PROMISES = (
    "x-ms-encryption-scope",
    "x-ms-encryption-key",
    "x-ms-immutability-policy-until-date",
    "x-ms-immutability-policy-mode",
    "x-ms-legal-hold",
    "x-ms-source-if-tags",
)
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")


@dataclass(frozen=True)
class Target:
    """What a request is about. `blob` is the name, decoded."""

    account: Document
    container: str
    blob: str
    query: Mapping[str, str]

    @property
    def level(self) -> str:
        return "blob" if self.blob else "container" if self.container else "service"

    @property
    def scope(self) -> str:
        """Where a role must be held: Azure's finest scope is the container."""
        base = self.account["id"]
        return f"{base}/blobServices/default/containers/{self.container}" if self.container else base

    @property
    def path(self) -> str:
        """The path at Azurite."""
        container = backend_name(self.account, self.container)
        return f"/{container}/{quote(self.blob, safe='/')}" if self.blob else f"/{container}"


class BlobGate:
    """Answers what comes to the blob port."""

    def __init__(self, kit: Kit, azurite: Azurite, events: Events) -> None:
        self._kit = kit
        self._azurite = azurite
        self._events = events
        self._door = Door(kit, "blob")

    def answer(self, request: Request) -> Response:
        account = None
        try:
            account = self._door.account(request)
            return self._answer(_target(account, request.target), request)
        except AzureError as error:
            return self._door.refused(error, account)

    def _answer(self, target: Target, request: Request) -> Response:
        caller = self._door.caller(request.headers.get("Authorization", ""), target.account)
        self._door.check_open(target.account)
        operation = _operation(target, request)
        self._check(caller, operation, target, request)
        if operation.name in {"CreateContainer", "DeleteContainer"}:
            return self._container(operation, target, request)
        if operation.name == "ListContainers":
            return self._containers(target)
        self._check_container(target)
        if operation.needs_key or "metadata" in target.query.get("include", "").split(","):
            self._check_key(target.account)
        return self._carried_out(operation, target, request, caller)

    # Judging

    def _check(self, caller: Caller, operation: Operation, target: Target, request: Request) -> None:
        self._door.check(caller, operation.action, target.scope, is_data=operation.is_data)
        if "tags" in target.query.get("include", "").split(","):
            self._door.check(caller, READ_TAGS, target.scope, is_data=True)
        writes_tags = request.headers.get("x-ms-tags") or request.headers.get("x-ms-copy-source-tag-option") == "COPY"
        if writes_tags:
            self._door.check(caller, WRITE_TAGS, target.scope, is_data=True)

    def _check_container(self, target: Target) -> None:
        found = self._kit.world.store.get("container", f"{target.account['name']}/{target.container}")
        if found is None or found.get("deleted"):
            raise refusals.NO_CONTAINER.error()

    def _check_key(self, account: Document) -> None:
        """Tries the account's key through its vault. Raises AzureError."""
        account = self._kit.keys.follow(account)
        if account["key"]:
            self._kit.keys.unwrap(account["key"])

    # Carrying out

    def _carried_out(self, operation: Operation, target: Target, request: Request, caller: Caller) -> Response:
        headers = _headers(request)
        if request.headers.get("x-ms-copy-source"):
            headers |= self._source(operation, target, request, caller)
        if operation.name == "SetBlobTags":
            self._check_match(target, request)
        query = urlencode({name: value for name, value in target.query.items() if name != "timeout"})
        reply = self._azurite.request("blob", request.method, target.path, query, headers=headers, body=request.body)
        self._tell(operation, target, request, reply)
        return self._shown(request, target, reply)

    def _check_match(self, target: Target, request: Request) -> None:
        """Set Blob Tags with a condition: Azurite does not look at it."""
        wanted = request.headers.get("x-ms-blob-if-match") or request.headers.get("If-Match")
        if wanted is None:
            return
        found = self._azurite.request("blob", "HEAD", target.path)
        if found.status == 200 and wanted != "*" and found.header("etag") != wanted:
            raise AzureError(
                "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.", 412
            )

    def _source(self, operation: Operation, target: Target, request: Request, caller: Caller) -> dict[str, str]:
        """The headers for a source within this sandbox, once the caller may read it. Raises AzureError."""
        url = urlsplit(request.headers["x-ms-copy-source"])
        if url.netloc != f"127.0.0.1:{self._kit.world.blob_port}" or url.scheme != "https":
            raise refusals.NOT_IN_TABLE.error(what="copies from addresses outside the sandbox")
        if _SAS in dict(parse_qsl(url.query)):
            raise refusals.NOT_IN_TABLE.error(what="shared access signatures")
        name = unquote(url.path.lstrip("/").partition("/")[0])
        account = self._kit.world.store.get("account", name)
        if account is None:
            raise refusals.COPY_SOURCE.error(why="The specified resource does not exist.")
        source = _target(account, f"{url.path}?{url.query}" if url.query else url.path)
        is_sync = operation.name != "PutBlob" or request.headers.get("x-ms-requires-sync", "").lower() == "true"
        if operation.name == "PutBlob" and request.headers.get("x-ms-blob-type") is not None:
            raise refusals.NOT_IN_TABLE.error(what="Put Blob From URL: use Copy Blob From URL, or blocks")
        self._check_source(source, target, request, caller, is_sync=is_sync)
        self._check_key(account)
        self._check_content(source, request, is_sync=is_sync and operation.name == "PutBlob")
        snapshot = source.query.get("snapshot")
        address = self._azurite.url_of_blob(account, source.container, source.blob)
        queries = [f"snapshot={quote(snapshot)}"] if snapshot else []
        if operation.name != "PutBlob":  # Azurite fetches a block's source from itself, as anybody would
            queries.append(self._azurite.read_signature(account, source.container, source.blob))
        headers = {"x-ms-copy-source": f"{address}?{'&'.join(queries)}" if queries else address}
        if "x-ms-requires-sync" in {name.lower() for name in request.headers}:
            headers["x-ms-requires-sync"] = str(is_sync).lower()  # the SDK writes True
        return headers

    def _check_source(self, source: Target, target: Target, request: Request, caller: Caller, *, is_sync: bool) -> None:
        own = request.headers.get("x-ms-copy-source-authorization")
        if own and not is_sync:
            raise refusals.UNSUPPORTED_QUERY.error()
        try:
            if own:
                caller = self._door.caller(own, source.account)
            elif source.account["name"] != target.account["name"]:
                raise refusals.NO_AUTHENTICATION.error()
            self._door.check_open(source.account)
            self._door.check(caller, READ, source.scope, is_data=True)
            if request.headers.get("x-ms-copy-source-tag-option") == "COPY":
                self._door.check(caller, READ_TAGS, source.scope, is_data=True)
            self._check_container(source)
        except AzureError as error:
            raise AzureError("CannotVerifyCopySource", error.message, error.status) from error

    def _check_content(self, source: Target, request: Request, *, is_sync: bool) -> None:
        """What Azurite does not look at in a copy from a URL: the size, and what the source's bytes should be."""
        wanted = request.headers.get("x-ms-source-content-md5")
        if not is_sync:
            return
        query = urlencode({"snapshot": source.query["snapshot"]}) if "snapshot" in source.query else ""
        head = self._azurite.request("blob", "HEAD", source.path, query)
        if head.status != 200:
            return  # Azurite says it in its own words
        if int(head.header("content-length") or 0) > LARGEST_SYNC_COPY:
            raise refusals.COPY_TOO_LARGE.error()
        if wanted:
            body = self._azurite.request("blob", "GET", source.path, query).body
            if base64.b64encode(hashlib.md5(body).digest()).decode() != wanted:
                raise AzureError(
                    "Md5Mismatch",
                    "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
                    400,
                )

    def _shown(self, request: Request, target: Target, reply: Reply) -> Response:
        """The reply under the names that the caller knows."""
        body = reply.body
        if reply.header("content-type") == "application/xml" and target.level == "container":
            body = self._renamed(body.decode("utf-8"), target).encode()
        shown = Reply(reply.status, [(name, self._renamed(value, target)) for name, value in reply.headers], body)
        return response(shown, is_head=request.method == "HEAD")

    def _renamed(self, text: str, target: Target) -> str:
        backend = backend_name(target.account, target.container)
        if ACCOUNT not in text and backend not in text:
            return text

        def real(found: re.Match[str]) -> str:
            for key, _ in self._kit.world.store.all("container"):
                name, container = key.split("/", 1)
                account = self._kit.world.store.get("account", name)
                if account and backend_name(account, container) == found[1]:
                    return f"{self._kit.world.blob_endpoint(name)}{container}/"
            return found[0]

        base = f"http://127.0.0.1:{self._azurite.blob_port}/{ACCOUNT}"
        text = re.sub(rf"{re.escape(base)}/(c[0-9a-f]{{40}})/", real, text)
        endpoint = self._kit.world.blob_endpoint(target.account["name"]).rstrip("/")
        return text.replace(base, endpoint).replace(backend, target.container)

    def _tell(self, operation: Operation, target: Target, request: Request, reply: Reply) -> None:
        if not operation.event or reply.status not in (201, 202) or "snapshot" in target.query:
            return
        is_copy = bool(request.headers.get("x-ms-copy-source"))
        self._events.happened(
            Change(
                account=target.account,
                api="CopyBlob" if is_copy else operation.name,
                blob=target.blob,
                container=target.container,
                etag=(reply.header("etag") or "").strip('"'),
                length=len(request.body),
                type=operation.event,
            )
        )

    # Containers are ours: Azurite's have other names

    def _container(self, operation: Operation, target: Target, request: Request) -> Response:
        metadata = {
            name.lower().removeprefix("x-ms-meta-"): value
            for name, value in request.headers.items()
            if name.lower().startswith("x-ms-meta-")
        }
        if operation.name == "DeleteContainer":
            if not drop_container(self._kit, target.account, target.container):
                raise refusals.NO_CONTAINER.error()
            return Response(202)
        if not make_container(self._kit, target.account, target.container, metadata):
            raise refusals.CONTAINER_EXISTS.error()
        return Response(201)

    def _containers(self, target: Target) -> Response:
        names = [
            each["name"]
            for _, each in self._kit.world.store.all("container", f"{target.account['name']}/")
            if not each.get("deleted") and each["name"].startswith(target.query.get("prefix", ""))
        ]
        items = "".join(f"<Container><Name>{escape(name)}</Name><Properties/></Container>" for name in names)
        endpoint = quoteattr(self._kit.world.blob_endpoint(target.account["name"]))
        xml = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint={endpoint}><Containers>{items}</Containers><NextMarker/></EnumerationResults>'
        return Response(200, xml.encode(), (("content-type", "application/xml"),))


def _target(account: Document, raw: str) -> Target:
    """Raises AzureError for names that Azure refuses and Azurite takes."""
    parts = urlsplit(raw)
    try:
        segments = parts.path.split("/", 3)[1:]
        container = unquote(segments[1], errors="strict") if len(segments) > 1 else ""
        blob = unquote(segments[2], errors="strict") if len(segments) > 2 else ""
    except UnicodeDecodeError as error:
        raise refusals.BAD_NAME.error() from error
    if len(blob) > LONGEST_NAME or _NOT_IN_NAMES.search(blob) or "\\" in blob:
        raise refusals.BAD_NAME.error()
    query = {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    return Target(account, container, blob, query)


def _operation(target: Target, request: Request) -> Operation:
    """What is asked for, if the gate offers it. Raises AzureError."""
    if _SAS in target.query:
        raise refusals.NOT_IN_TABLE.error(what="shared access signatures")
    restype, comp = target.query.get("restype", ""), target.query.get("comp", "")
    operation = TABLE.get((target.level, request.method, restype, comp))
    if operation is None:
        raise refusals.NOT_IN_TABLE.error(
            what=f"{request.method} of a {target.level} with restype={restype!r} comp={comp!r}"
        )
    if unknown := set(target.query) - operation.query - _ALWAYS:
        raise refusals.NOT_IN_TABLE.error(what=f"{operation.name} with {', '.join(sorted(unknown))}")
    for name in _PROMISES:
        if request.headers.get(name):
            raise refusals.NOT_IN_TABLE.error(what=f"{name}: nothing here would keep its promise")
    metadata = sum(
        len(name) - 10 + len(value) for name, value in request.headers.items() if name.lower().startswith("x-ms-meta-")
    )
    if metadata > MOST_METADATA:
        raise refusals.METADATA_TOO_LARGE.error()
    if len(parse_qsl(request.headers.get("x-ms-tags", ""), keep_blank_values=True)) > MOST_TAGS:
        raise AzureError("TagsTooLarge", "The tags specified exceed the maximum permissible limit.", 400)
    return operation


def _headers(request: Request) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in request.headers.items()
        if name.lower() in _PASSED_ON or (name.lower().startswith("x-ms-") and name.lower() not in _OWN)
    }
