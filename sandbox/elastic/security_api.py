"""`/_security`: API keys and roles, answered by the front because the node has no `.security` index.

Roles are kept and returned, but nobody holds them: besides API keys there is only the user `elastic`.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import TYPE_CHECKING, Any

from sandbox.elastic import privileges
from sandbox.elastic.credentials import USER, Principal, digest, is_live, new_secret, now_ms
from sandbox.elastic.record import ApiKey
from sandbox.elastic.web import BadRequestError, Request, Response, json_response

if TYPE_CHECKING:
    from sandbox.elastic.deployment import Deployment

_PRODUCT = ("X-elastic-product", "Elasticsearch")
_DURATION = re.compile(r"^(\d+)(ms|s|m|h|d)$")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PREFIX = "cluster:admin/xpack/security/"


def required_action(request: Request) -> str | None:
    """The cluster action that the request needs; None if every caller may ask it."""
    subject = request.segments[1:2]
    if subject == ("_authenticate",):
        return None
    kind = "api_key" if subject == ("api_key",) else "role"
    verb = {"GET": "get", "HEAD": "get", "DELETE": "invalidate" if kind == "api_key" else "delete"}
    if kind == "api_key" and request.method == "PUT" and len(request.segments) > 2:
        return f"{_PREFIX}api_key/update"
    return f"{_PREFIX}{kind}/{verb.get(request.method, 'create' if kind == 'api_key' else 'put')}"


def answer(deployment: Deployment, principal: Principal, request: Request) -> Response:
    """Raises BadRequestError for what Elasticsearch answers with 400."""
    match request.method, *request.segments[1:]:
        case "GET", "_authenticate":
            return _reply(200, _who(principal))
        case (("POST" | "PUT"), "api_key"):
            return _create_key(deployment, principal, request.json())
        case "PUT", "api_key", id:
            return _update_key(deployment, principal, id, request.json())
        case "GET", "api_key":
            return _get_keys(deployment, request)
        case "DELETE", "api_key":
            return _invalidate_keys(deployment, request.json())
        case (("PUT" | "POST"), "role", name):
            return _put_role(deployment, name, request.json())
        case "GET", "role":
            return _reply(200, deployment.record.roles)
        case "GET", "role", name:
            roles = {role: deployment.record.roles[role] for role in name.split(",") if role in deployment.record.roles}
            return _reply(200 if roles else 404, roles)
        case "DELETE", "role", name:
            return _delete_role(deployment, name)
        case _:
            reason = f"the sandbox does not offer {request.method} {request.target}"
            return _reply(501, {"error": {"type": "not_offered_by_sandbox", "reason": reason}, "status": 501})


def _reply(status: int, value: Any) -> Response:
    return json_response(status, value, _PRODUCT)


def _who(principal: Principal) -> dict[str, Any]:
    who: dict[str, Any] = {"username": USER, "full_name": None, "email": None, "enabled": True, "metadata": {}}
    key = principal.api_key
    if key is None:
        realm = {"name": "reserved", "type": "reserved"}
        return {**who, "roles": ["superuser"], **_realms(realm), "authentication_type": "realm"}
    realm = {"name": "_es_api_key", "type": "_es_api_key"}
    named = {"api_key": {"id": key.id, "name": key.name}}
    return {**who, "roles": [], **_realms(realm), "authentication_type": "api_key", **named}


def _realms(realm: dict[str, str]) -> dict[str, Any]:
    return {"authentication_realm": realm, "lookup_realm": realm}


def _create_key(deployment: Deployment, principal: Principal, body: dict[str, Any]) -> Response:
    if principal.api_key is not None:
        # A key made by a key may hold no privileges at all in Elasticsearch, which nobody here needs.
        raise BadRequestError(
            "creating derived api keys requires an explicit role descriptor that is empty (has no privileges)"
        )
    name = body.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequestError("Validation Failed: 1: api key name is required;")
    descriptors = body.get("role_descriptors") or {}
    for descriptor in descriptors.values():
        _validate(descriptor)
    secret = new_secret(22)
    key = ApiKey(
        id=secrets.token_urlsafe(15),
        name=name,
        digest=digest(secret),
        creation=now_ms(),
        expiration=_expiration(body.get("expiration")),
        role_descriptors=descriptors,
        metadata=body.get("metadata") or {},
    )
    deployment.update(lambda record: {"api_keys": {**record.api_keys, key.id: key}})
    encoded = base64.b64encode(f"{key.id}:{secret}".encode()).decode()
    expires = {} if key.expiration is None else {"expiration": key.expiration}
    return _reply(200, {"id": key.id, "name": name, **expires, "api_key": secret, "encoded": encoded})


def _update_key(deployment: Deployment, principal: Principal, id: str, body: dict[str, Any]) -> Response:
    """As Elasticsearch's "Update API key": by the user who made it, at once, the secret stays."""
    if principal.api_key is not None:
        raise BadRequestError("authentication via API key not supported: only the owner user can update an API key")
    unknown = set(body) - {"role_descriptors", "metadata", "expiration"}
    if unknown:
        raise BadRequestError(f"[update_api_key_request_payload] unknown field [{min(unknown)}]")
    key = deployment.record.api_keys.get(id)
    if key is None:
        reason = f"no API key owned by requesting user found for ID [{id}]"
        cause = {"type": "resource_not_found_exception", "reason": reason}
        return _reply(404, {"error": {"root_cause": [cause], **cause}, "status": 404})
    if key.invalidation is not None:
        raise BadRequestError(f"cannot update invalidated API key [{id}]")
    if not is_live(key):
        raise BadRequestError(f"cannot update expired API key [{id}]")
    wanted: dict[str, Any] = {
        name: body[name] for name in ("role_descriptors", "metadata") if body.get(name) is not None
    }
    if "expiration" in body:
        wanted["expiration"] = _expiration(body["expiration"])
    for descriptor in wanted.get("role_descriptors", {}).values():
        _validate(descriptor)
    changed = key.model_copy(update=wanted)
    deployment.update(lambda record: {"api_keys": {**record.api_keys, id: changed}})
    return _reply(200, {"updated": changed != key})


def _expiration(written: str | None) -> int | None:
    if written is None:
        return None
    found = _DURATION.match(written)
    if found is None:
        raise BadRequestError(f"failed to parse setting [expiration] with value [{written}] as a time value")
    return now_ms() + int(found[1]) * _MILLISECONDS[found[2]]


def _get_keys(deployment: Deployment, request: Request) -> Response:
    query = request.query
    chosen = [
        key
        for key in deployment.record.api_keys.values()
        if query.get("id", key.id) == key.id
        and _name_fits(query.get("name"), key.name)
        and (query.get("active_only") not in {"", "true"} or is_live(key))
    ]
    return _reply(404 if "id" in query and not chosen else 200, {"api_keys": [_shown(key) for key in chosen]})


def _name_fits(wanted: str | None, name: str) -> bool:
    if wanted is None:
        return True
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


def _shown(key: ApiKey) -> dict[str, Any]:
    shown = key.model_dump(exclude={"digest", "invalidation", "expiration"})
    times = {"expiration": key.expiration, "invalidation": key.invalidation}
    return {
        **shown,
        **{name: value for name, value in times.items() if value is not None},
        "type": "rest",
        "invalidated": key.invalidation is not None,
        "username": USER,
        "realm": "reserved",
        "realm_type": "reserved",
    }


def _invalidate_keys(deployment: Deployment, body: dict[str, Any]) -> Response:
    ids, name = body.get("ids") or ([body["id"]] if "id" in body else None), body.get("name")
    if ids is None and name is None and not body.get("owner") and body.get("username") != USER:
        raise BadRequestError(
            "Validation Failed: 1: One of [api key id(s), api key name, username, ...] must be given;"
        )
    chosen = [
        key
        for key in deployment.record.api_keys.values()
        if (ids is None or key.id in ids) and (name is None or key.name == name)
    ]
    ended = {key.id: key.model_copy(update={"invalidation": now_ms()}) for key in chosen if key.invalidation is None}
    deployment.update(lambda record: {"api_keys": {**record.api_keys, **ended}})
    before = [key.id for key in chosen if key.id not in ended]
    return _reply(
        200, {"invalidated_api_keys": list(ended), "previously_invalidated_api_keys": before, "error_count": 0}
    )


def _put_role(deployment: Deployment, name: str, body: dict[str, Any]) -> Response:
    _validate(body)
    is_new = name not in deployment.record.roles
    role = {
        "cluster": body.get("cluster", []),
        "indices": [{"allow_restricted_indices": False, **entry} for entry in body.get("indices", [])],
        "applications": [],
        "run_as": [],
        "metadata": body.get("metadata", {}),
        "transient_metadata": {"enabled": True},
    }
    deployment.update(lambda record: {"roles": {**record.roles, name: role}})
    return _reply(200, {"role": {"created": is_new}})


def _delete_role(deployment: Deployment, name: str) -> Response:
    found = name in deployment.record.roles
    deployment.update(lambda record: {"roles": {role: kept for role, kept in record.roles.items() if role != name}})
    return _reply(200 if found else 404, {"found": found})


def _validate(descriptor: Any) -> None:
    try:
        privileges.validate(descriptor)
    except privileges.DescriptorError as error:
        raise BadRequestError(str(error)) from error
