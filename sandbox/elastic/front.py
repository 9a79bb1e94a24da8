"""What a deployment's URL answers.

In this order, as Elastic Cloud's proxy and then Elasticsearch do: is there a deployment and may this
address reach it, is it unlocked and up, who is calling, may they; then the node answers, untouched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import httpx
import orjson

from sandbox.elastic import bulk, launch, security_api
from sandbox.elastic.actions import (
    BULK,
    CLOSE_PIT,
    SEARCH,
    Demand,
    body_or_source,
    default_index,
    demands,
)
from sandbox.elastic.credentials import Principal, authenticate
from sandbox.elastic.deployment import Deployment, Phase
from sandbox.elastic.privileges import AUTO_CREATE, Privileges
from sandbox.elastic.traffic_filter import TrafficFilters
from sandbox.elastic.web import BadRequestError, Request, Response, json_object, json_response

log = logging.getLogger(__name__)

_PRODUCT = ("X-elastic-product", "Elasticsearch")
_CHALLENGES = (
    ("WWW-Authenticate", 'Basic realm="security", charset="UTF-8"'),
    ("WWW-Authenticate", "ApiKey"),
)
_MOST_REMEMBERED = 10_000
_WRITES = "indices:data/write/"


class RefusedError(Exception):
    """The caller lacks a privilege: 403 security_exception."""


class Front:
    """Answers all requests to one deployment. Called from many threads."""

    def __init__(self, deployment: Deployment, filters: TrafficFilters, link: httpx.Client) -> None:
        self._deployment = deployment
        self._filters = filters
        self._link = link
        self._existing: set[str] = set()  # names seen to exist, so that a write to them creates nothing
        self._points_in_time: dict[str, tuple[str, frozenset[str]]] = {}  # id: who opened it, on which indices
        self._cluster_uuid: str | None = None

    def answer(self, request: Request) -> Response:
        unreachable = self._why_unreachable(request)
        if unreachable is not None:
            return unreachable
        if self._deployment.faults.latency:
            time.sleep(self._deployment.faults.latency)
        principal = authenticate(self._deployment.record, request.headers.get("Authorization"))
        if principal is None:
            return _unauthenticated(request)
        try:
            return self._answer(principal, request)
        except RefusedError as refused:
            return _error(403, "security_exception", str(refused))
        except BadRequestError as bad:
            return _error(400, "illegal_argument_exception", str(bad))
        except httpx.TransportError as error:
            # A lock or a stop may have taken the node away under the request.
            log.info("deployment %s: the node did not answer: %r", self._deployment.record.id, error)
            return self._why_unreachable(request) or _unavailable("The instance did not answer.")

    def _why_unreachable(self, request: Request) -> Response | None:
        deployment = self._deployment
        if deployment.phase is Phase.STOPPED:
            return json_response(404, {"ok": False, "message": "Unknown deployment."})
        if not self._filters.admit(deployment.record.id, request.client):
            return json_response(403, {"ok": False, "message": "Forbidden by traffic filter."})
        if deployment.phase is Phase.LOCKED:
            return _unavailable("The deployment is locked: its encryption key is not available.")
        if deployment.node_port() is None:
            return _unavailable("The deployment has no running instance.")
        return None

    def _answer(self, principal: Principal, request: Request) -> Response:
        if request.segments[:1] == ("_security",):
            action = security_api.required_action(request)
            if action is not None:
                self._require(principal, [Demand(action)])
            return security_api.answer(self._deployment, principal, request)
        needed = None
        if principal.privileges is not None:
            needed = demands(request)
            self._require(principal, needed)
        if not request.segments:
            return self._banner()
        if _is(request, "_bulk"):
            return self._bulk(principal, request)
        if principal.privileges is not None:
            self._require_existing(principal, needed or [])
            self._require_point_in_time(principal, request)
            if request.method == "POST" and _is(request, "_pit"):
                return self._open_point_in_time(principal, request)
        if request.method == "DELETE":
            self._existing.clear()
        return self._forward(request)

    # --- privileges

    def _require(self, principal: Principal, needed: Iterable[Demand] | None) -> None:
        if principal.privileges is None:
            return
        if needed is None:
            raise RefusedError(f"this request is not offered to {principal.name}: only to the user [elastic]")
        for demand in needed:
            reason = _refusal(principal, principal.privileges, demand)
            if reason is not None:
                raise RefusedError(reason)

    def _require_existing(self, principal: Principal, needed: Iterable[Demand]) -> None:
        for demand in needed:
            if demand.action.startswith(_WRITES):
                for name in demand.names or ():
                    self._require_auto_create(principal, name)

    def _require_auto_create(self, principal: Principal, name: str) -> None:
        """A write to a missing index creates it, which `write` alone does not allow."""
        if principal.privileges is None or principal.privileges.allow_index(AUTO_CREATE, name):
            return
        if name not in self._existing:
            if self._ask("HEAD", f"/{name}").status_code == 404:
                raise RefusedError(_refusal_text(AUTO_CREATE, principal, name))
            self._existing.add(name)

    def _require_point_in_time(self, principal: Principal, request: Request) -> None:
        """A search in a point in time needs `read` on the indices behind the alias that it was opened on.

        Elasticsearch documents this (Open point in time API, prerequisites), and that nobody but who
        opened it can use it.
        """
        if not _is(request, "_search"):
            return
        point = json_object(body_or_source(request)).get("pit")
        if point is None:
            return
        if not isinstance(point, dict):
            raise BadRequestError("[pit] is not an object")
        owner, indices = self._points_in_time.get(point.get("id", ""), ("", frozenset()))
        if owner != principal.name:
            raise RefusedError(f"the point in time was not opened by {principal.name}")
        self._require(principal, [Demand(SEARCH, tuple(sorted(indices)))])

    def _open_point_in_time(self, principal: Principal, request: Request) -> Response:
        indices = frozenset(self._ask("GET", f"/{request.raw_segments[0]}/_alias").json())
        response = self._forward(request, request.content)
        if response.status == 200:
            if len(self._points_in_time) >= _MOST_REMEMBERED:
                self._points_in_time.pop(next(iter(self._points_in_time)))
            # A single node never moves a point in time, so its id stays the one given here.
            self._points_in_time[orjson.loads(response.body)["id"]] = (principal.name, indices)
        return response

    # --- bulk

    def _bulk(self, principal: Principal, request: Request) -> Response:
        if self._deployment.faults.refuses_bulk():
            return _error(429, "es_rejected_execution_exception", "rejected execution of coordinating operation")
        if principal.privileges is None:
            return self._forward(request)
        split = bulk.split(request.content, default_index(request), lambda item: self._judge(principal, item))
        if not split.refused:
            return self._forward(request)
        if not split.body:
            return json_response(200, split.merge({"took": 0, "errors": True, "items": []}), _PRODUCT)
        response = self._forward(request, split.body)
        if response.status != 200:
            return response
        return Response(200, orjson.dumps(split.merge(orjson.loads(response.body))), _without_length(response.headers))

    def _judge(self, principal: Principal, item: bulk.Item) -> dict[str, Any] | None:
        try:
            self._require(principal, [Demand(BULK, (item.index,)), Demand(item.action, (item.index,))])
            self._require_auto_create(principal, item.index)
        except RefusedError as refused:
            return {"type": "security_exception", "reason": str(refused)}
        return None

    # --- the node

    def _forward(self, request: Request, body: bytes | None = None) -> Response:
        """The node's own answer. With a `body` in place of the request's, nothing is compressed either way."""
        dropped = {"host", "authorization", "connection", "content-length"}
        if body is not None:
            dropped |= {"content-encoding", "accept-encoding"}
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in dropped]
        content = request.body if body is None else body
        answer = self._link.send(
            httpx.Request(request.method, self._url(request.target), headers=headers, content=content), stream=True
        )
        try:
            raw = b"".join(answer.iter_raw())
        finally:
            answer.close()
        kept = [
            (name, value)
            for name, value in answer.headers.multi_items()
            if name not in {"transfer-encoding", "connection"}
        ]
        return Response(answer.status_code, raw, tuple(kept))

    def _ask(self, method: str, path: str) -> httpx.Response:
        return self._link.request(method, self._url(path))

    def _url(self, target: str) -> httpx.URL:
        port = self._deployment.node_port()
        if port is None:
            raise httpx.ConnectError("no running instance")
        return httpx.URL(scheme="http", host="127.0.0.1", port=port, raw_path=target.encode("ascii"))

    def _banner(self) -> Response:
        """`GET /`, whose module this distribution lacks."""
        if self._cluster_uuid is None:
            state = self._ask("GET", "/_cluster/state/metadata?filter_path=metadata.cluster_uuid,cluster_uuid").json()
            self._cluster_uuid = state.get("cluster_uuid") or state["metadata"]["cluster_uuid"]
        version = {
            "number": launch.VERSION,
            "build_flavor": "default",
            "build_type": "zip",
            "build_hash": "93788a8c2882eb5b606510680fac214cff1c7a22",
            "build_date": "2025-07-23T22:10:18.138212839Z",
            "build_snapshot": False,
            "lucene_version": "9.12.2",
            "minimum_wire_compatibility_version": "7.17.0",
            "minimum_index_compatibility_version": "7.0.0",
        }
        banner = {
            "name": "instance-0000000000",
            "cluster_name": self._deployment.record.cluster_id,
            "cluster_uuid": self._cluster_uuid,
            "version": version,
            "tagline": "You Know, for Search",
        }
        return json_response(200, banner, _PRODUCT)


def _is(request: Request, endpoint: str) -> bool:
    """`/_search` or `/index/_search`; a document may have such an id."""
    return len(request.segments) <= 2 and request.segments[-1:] == (endpoint,)


def _refusal(principal: Principal, privileges: Privileges, demand: Demand) -> str | None:
    if demand.action == CLOSE_PIT:
        return None  # whoever knows its id may close it
    if demand.names is None:
        allowed = privileges.allow_cluster(demand.action)
        return None if allowed else f"action [{demand.action}] is unauthorized for {principal.name}"
    for name in demand.names:
        if not privileges.allow_index(demand.action, name):
            return _refusal_text(demand.action, principal, name)
    return None


def _refusal_text(action: str, principal: Principal, name: str) -> str:
    return f"action [{action}] is unauthorized for {principal.name} on indices [{name}]"


def _unauthenticated(request: Request) -> Response:
    """Elasticsearch's 401 carries no X-elastic-product."""
    if request.headers.get("Authorization"):
        reason = f"unable to authenticate with provided credentials for REST request [{request.target}]"
    else:
        reason = f"missing authentication credentials for REST request [{request.target}]"
    return json_response(401, _error_body(401, "security_exception", reason), *_CHALLENGES)


def _unavailable(message: str) -> Response:
    """As the proxy before a deployment answers: no X-elastic-product, since no Elasticsearch spoke."""
    return json_response(503, {"ok": False, "message": message})


def _error(status: int, kind: str, reason: str) -> Response:
    return json_response(status, _error_body(status, kind, reason), _PRODUCT)


def _error_body(status: int, kind: str, reason: str) -> dict[str, Any]:
    cause = {"type": kind, "reason": reason}
    return {"error": {"root_cause": [cause], **cause}, "status": status}


def _without_length(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in headers if name.lower() != "content-length")
