"""Which Elasticsearch actions a request asks for, and on which index or alias names.

The names of the actions are those that Elasticsearch authorizes. A path that is not in the table needs
the rights of `elastic`: what is not understood is refused to a limited key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sandbox.elastic.web import BadRequestError, Request, json_object

SEARCH = "indices:data/read/search"
BULK = "indices:data/write/bulk"
OPEN_PIT = "indices:data/read/open_point_in_time"
CLOSE_PIT = "indices:data/read/close_point_in_time"
_MSEARCH = "indices:data/read/msearch"
_MGET = "indices:data/read/mget"
_ALIASES = "indices:admin/aliases"
_CREATE_INDEX = "indices:admin/create"
_DELETE_INDEX = "indices:admin/delete"


@dataclass(frozen=True)
class Demand:
    """`names` is None for an action on the cluster."""

    action: str
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Route:
    methods: frozenset[str]
    pattern: tuple[str, ...]
    action: str


def _routes() -> Iterator[Route]:
    for line in _TABLE.strip().splitlines():
        methods, path, action = line.split()
        pattern = tuple(part for part in path.split("/") if part)
        yield Route(frozenset(methods.split(",")), pattern, action)
        if action.startswith("indices:") and pattern and pattern[0] == "{index}" and len(pattern) > 1:
            # Without an index in the path: the parameter `index`, else all of them.
            yield Route(frozenset(methods.split(",")), pattern[1:], action)


_TABLE = """
GET,HEAD        /                                   cluster:monitor/main
GET             /_cluster/health                    cluster:monitor/health
GET             /_cluster/health/{any}              cluster:monitor/health
GET             /_cluster/stats                     cluster:monitor/stats
GET             /_cluster/state                     cluster:monitor/state
GET             /_cluster/settings                  cluster:monitor/settings
PUT             /_cluster/settings                  cluster:admin/settings/update
GET             /_nodes                             cluster:monitor/nodes/info
GET             /_nodes/{any}                       cluster:monitor/nodes/info
GET             /_nodes/{any}/{any}                 cluster:monitor/nodes/stats
GET             /_tasks                             cluster:monitor/tasks/lists
GET             /_license                           cluster:monitor/xpack/license/get
GET             /_xpack                             cluster:monitor/xpack/info
GET             /_cat/{any}                         cluster:monitor/state
GET,HEAD        /_index_template                    indices:admin/index_template/get
GET,HEAD        /_index_template/{any}              indices:admin/index_template/get
PUT,POST        /_index_template/{any}              indices:admin/index_template/put
DELETE          /_index_template/{any}              indices:admin/index_template/delete
GET,HEAD        /_component_template/{any}          cluster:admin/component_template/get
PUT,POST        /_component_template/{any}          cluster:admin/component_template/put
DELETE          /_component_template/{any}          cluster:admin/component_template/delete
GET,POST        /{index}/_search                    indices:data/read/search
GET,POST        /{index}/_count                     indices:data/read/search
GET,POST        /{index}/_msearch                   indices:data/read/msearch
GET,POST        /{index}/_mget                      indices:data/read/mget
GET,POST        /{index}/_field_caps                indices:data/read/field_caps
POST            /{index}/_pit                       indices:data/read/open_point_in_time
DELETE          /_pit                               indices:data/read/close_point_in_time
GET,HEAD        /{index}/_doc/{any}                 indices:data/read/get
GET,HEAD        /{index}/_source/{any}              indices:data/read/get
GET,POST        /{index}/_explain/{any}             indices:data/read/explain
GET,POST        /{index}/_validate/query            indices:admin/validate/query
POST            /{index}/_doc                       indices:data/write/index
PUT,POST        /{index}/_doc/{any}                 indices:data/write/index
PUT,POST        /{index}/_create/{any}              indices:data/write/index:op_type/create
POST            /{index}/_update/{any}              indices:data/write/update
DELETE          /{index}/_doc/{any}                 indices:data/write/delete
PUT,POST        /{index}/_bulk                      indices:data/write/bulk
PUT             /{index}                            indices:admin/create
DELETE          /{index}                            indices:admin/delete
GET,HEAD        /{index}                            indices:admin/get
GET             /{index}/_mapping                   indices:admin/mappings/get
PUT,POST        /{index}/_mapping                   indices:admin/mapping/put
GET             /{index}/_settings                  indices:monitor/settings/get
PUT             /{index}/_settings                  indices:admin/settings/update
PUT             /{index}/_block/{any}               indices:admin/block/add
POST            /{index}/_open                      indices:admin/open
POST            /{index}/_close                     indices:admin/close
GET,POST        /{index}/_refresh                   indices:admin/refresh
GET,POST        /{index}/_flush                     indices:admin/flush
POST            /{index}/_forcemerge                indices:admin/forcemerge
GET             /{index}/_stats                     indices:monitor/stats
GET             /{index}/_stats/{any}               indices:monitor/stats
GET             /{index}/_segments                  indices:monitor/segments
GET             /{index}/_recovery                  indices:monitor/recovery
GET,HEAD        /{index}/_alias                     indices:admin/aliases/get
GET,HEAD        /{index}/_alias/{any}               indices:admin/aliases/get
POST            /_aliases                           indices:admin/aliases
GET             /_resolve/index/{any}               indices:admin/resolve/index
"""
_ROUTES = tuple(_routes())


def demands(request: Request) -> list[Demand] | None:
    """All that the request needs, or None if its path is not known. `_bulk` is judged item by item elsewhere.

    Raises BadRequestError for a body that names no indices where it has to.
    """
    segments = request.segments
    if any(part in {"", ".", ".."} for part in (*segments, *request.raw_segments)):
        return None
    route = next((route for route in _ROUTES if _fits(route, request.method, segments)), None)
    if route is None:
        return None
    if route.pattern[:2] == ("_resolve", "index"):
        return [Demand(route.action, tuple(segments[2].split(",")))]
    if not route.action.startswith("indices:") or "_template" in route.action:
        return [Demand(route.action)]
    names = _names(route, request, segments)
    return list(_from_body(route.action, names, request))


def default_index(request: Request) -> str | None:
    """The index in the path or the query, which the items of a body fall back to."""
    segments = request.segments
    if len(segments) > 1 and _is_index(segments[0]):
        return segments[0]
    return request.query.get("index")


def body_or_source(request: Request) -> bytes:
    """The body, or the query parameter `source` that Elasticsearch takes in its place."""
    return request.content or request.query.get("source", "").encode()


def _fits(route: Route, method: str, segments: tuple[str, ...]) -> bool:
    return (
        method in route.methods
        and len(route.pattern) == len(segments)
        and all(
            part == "{any}" or (_is_index(given) if part == "{index}" else part == given)
            for part, given in zip(route.pattern, segments, strict=True)
        )
    )


def _is_index(segment: str) -> bool:
    """No index name begins with an underscore; `_all` stands for every index."""
    return not segment.startswith("_") or segment == "_all"


def _names(route: Route, request: Request, segments: tuple[str, ...]) -> tuple[str, ...]:
    written = segments[0] if route.pattern[:1] == ("{index}",) else request.query.get("index", "")
    return tuple("*" if name in {"", "_all"} else name for name in written.split(","))


def _from_body(action: str, names: tuple[str, ...], request: Request) -> Iterator[Demand]:
    if action == SEARCH:
        body = json_object(body_or_source(request))
        if "pit" not in body:
            yield Demand(SEARCH, names)
        yield from _looked_up(body)
    elif action == _MSEARCH:
        yield from _msearch(names, body_or_source(request))
    elif action == _MGET:
        docs = json_object(body_or_source(request)).get("docs") or []
        named = tuple(doc["_index"] for doc in docs if "_index" in doc)
        yield Demand(_MGET, named if docs and len(named) == len(docs) else (*named, *names))
    elif action == _ALIASES:
        yield from _alias_changes(request.json())
    elif action not in {BULK, CLOSE_PIT}:
        yield Demand(action, names)
        if action == _CREATE_INDEX and (aliases := request.json().get("aliases")):
            yield Demand(_ALIASES, (*names, *aliases))


def _msearch(names: tuple[str, ...], body: bytes) -> Iterator[Demand]:
    lines = [line for line in body.split(b"\n") if line.strip()]
    for number, line in enumerate(lines):
        content = json_object(line)
        if number % 2:
            if "pit" in content:
                raise BadRequestError("a point in time inside _msearch is not offered by the sandbox to API keys")
            yield from _looked_up(content)
        else:
            named = content.get("index", names)
            yield Demand(SEARCH, (named,) if isinstance(named, str) else tuple(named))


def _alias_changes(body: dict[str, Any]) -> Iterator[Demand]:
    for change in body.get("actions", []):
        for verb, what in change.items():
            names = (*_listed(what, "index", "indices"), *_listed(what, "alias", "aliases"))
            yield Demand(_DELETE_INDEX if verb == "remove_index" else _ALIASES, names)


def _listed(what: dict[str, Any], one: str, many: str) -> tuple[str, ...]:
    values = [*([what[one]] if one in what else []), *([what[many]] if many in what else [])]
    return tuple(name for value in values for name in ([value] if isinstance(value, str) else value))


def _looked_up(node: Any) -> Iterator[Demand]:
    """Indices that a query reads beside its own: terms lookup, indexed shapes, more-like-this documents."""
    if isinstance(node, list):
        for item in node:
            yield from _looked_up(item)
    elif isinstance(node, dict):
        if isinstance(node.get("index"), str) and "id" in node:
            yield Demand("indices:data/read/get", (node["index"],))
        if isinstance(node.get("_index"), str) and ("_id" in node or "doc" in node):
            yield Demand("indices:data/read/get", (node["_index"],))
        for value in node.values():
            yield from _looked_up(value)
