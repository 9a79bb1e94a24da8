"""elasticstack: IndexTemplate, Index, SecurityRole, SecurityApiKey, as in provider 0.5 under pulumi-elasticstack."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sandbox.provider import schema
from sandbox.provider.errors import GoneError, ProviderError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource

if TYPE_CHECKING:
    import httpx

_CONNECTION = "elasticsearchConnection"


def _cluster(resource: Resource) -> httpx.Client:
    return resource.clouds.elasticsearch(resource.inputs.get(_CONNECTION) or resource.state.get(_CONNECTION))


def _ask(client: httpx.Client, method: str, path: str, body: Any = None, *, gone: bool = False) -> Any:
    """One call; ProviderError in Elasticsearch's own words, GoneError for a 404 where `gone` says so."""
    response = client.request(method, path, json=body)
    if response.status_code == 404 and gone:
        raise GoneError(f"{method} {path}: not found")
    if response.is_error:
        raise ProviderError(f"{method} {path}: {response.status_code} {_reason(response)}")
    return response.json()


def _reason(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return response.text
    return f"{error.get('type')}: {error.get('reason')}" if isinstance(error, dict) else str(error)


def _id(client: httpx.Client, name: str) -> str:
    """Ids are `<cluster uuid>/<name>`."""
    return f"{_ask(client, 'GET', '/')['cluster_uuid']}/{name}"


def _name(resource: Resource) -> str:
    return resource.id.partition("/")[2]


def _kind(
    path: str, body: Callable[[Properties], Properties], found: Callable[[Any, str], Properties], **options: Any
) -> Kind:
    """A Kind whose object is put whole under `<path>/<name>`, and so made, changed and taken over alike."""

    def put(resource: Resource) -> None:
        with _cluster(resource) as client:
            _ask(client, "PUT", f"{path}/{resource.inputs['name']}", body(resource.inputs))

    def create(resource: Resource) -> str:
        put(resource)
        with _cluster(resource) as client:
            return _id(client, resource.inputs["name"])

    def read(resource: Resource) -> Properties:
        name = _name(resource)
        with _cluster(resource) as client:
            return {"name": name, **found(_ask(client, "GET", f"{path}/{name}", gone=True), name)}

    def delete(resource: Resource) -> None:
        with _cluster(resource) as client:
            _ask(client, "DELETE", f"{path}/{_name(resource)}", gone=True)

    return Kind(
        create=create,
        read=read,
        update=put,
        delete=delete,
        autoname=Autoname("name"),
        force_new=frozenset({"name"}),
        **options,
    )


def _parsed(text: str | None) -> Any:
    return json.loads(text) if text else None


def _text(value: Any) -> str | None:
    return json.dumps(value, sort_keys=True) if value else None


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


# Index templates


def _template_body(inputs: Properties) -> Properties:
    template = inputs.get("template") or {}
    aliases = {alias["name"]: _alias_body(alias) for alias in template.get("aliases") or []}
    return _without_none(
        index_patterns=inputs["indexPatterns"],
        composed_of=inputs.get("composedOfs"),
        data_stream=_data_stream(inputs.get("dataStream")),
        priority=inputs.get("priority"),
        version=inputs.get("version"),
        _meta=_parsed(inputs.get("metadata")),
        template=_without_none(
            aliases=aliases or None,
            mappings=_parsed(template.get("mappings")),
            settings=_parsed(template.get("settings")),
        )
        or None,
    )


def _data_stream(block: Properties | None) -> Properties | None:
    if block is None:
        return None
    return _without_none(hidden=block.get("hidden"), allow_custom_routing=block.get("allowCustomRouting"))


def _found_template(answer: Any, name: str) -> Properties:
    found = answer["index_templates"][0]["index_template"]
    template = found.get("template") or {}
    aliases = [_found_alias(alias, body) for alias, body in sorted((template.get("aliases") or {}).items())]
    block = _without_none(
        aliases=aliases or None, mappings=_text(template.get("mappings")), settings=_text(template.get("settings"))
    )
    return {
        "composedOfs": found.get("composed_of", []),
        "indexPatterns": found["index_patterns"],
        "metadata": _text(found.get("_meta")),
        "priority": found.get("priority"),
        "template": block or None,
        "version": found.get("version"),
    }


def _is_same_template(wanted: Properties, found: Properties) -> bool:
    """Elasticsearch answers settings nested and as text; both are compared flat."""
    return _comparable_template(wanted) == _comparable_template(found)


def _comparable_template(block: Properties) -> Any:
    aliases = {alias["name"]: _alias_body(alias) for alias in block.get("aliases") or []}
    return aliases, _parsed(block.get("mappings")) or {}, _flat(_parsed(block.get("settings")) or {})


def _flat(settings: Any, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            name = prefix + key
            flat[name if name.startswith("index.") else f"index.{name}"] = str(value).lower()
    return flat


# Indices

_ALIAS_FIELDS = {
    "indexRouting": "index_routing",
    "isHidden": "is_hidden",
    "isWriteIndex": "is_write_index",
    "routing": "routing",
    "searchRouting": "search_routing",
}


def _alias_body(alias: Properties) -> Properties:
    body = {field: alias[name] for name, field in _ALIAS_FIELDS.items() if alias.get(name)}
    if alias.get("filter"):
        body["filter"] = _parsed(alias["filter"])
    return body


def _found_alias(name: str, body: Properties) -> Properties:
    found = {property_: body[field] for property_, field in _ALIAS_FIELDS.items() if body.get(field)}
    return _without_none(name=name, filter=_text(body.get("filter")), **found)


def _are_same_aliases(wanted: list[Properties], found: list[Properties]) -> bool:
    return {alias["name"]: _alias_body(alias) for alias in wanted} == {
        alias["name"]: _alias_body(alias) for alias in found
    }


# Properties that are settings of an index under another name, fixed at its creation or not.
_STATIC_SETTINGS = {
    "codec": "codec",
    "numberOfRoutingShards": "number_of_routing_shards",
    "numberOfShards": "number_of_shards",
    "routingPartitionSize": "routing_partition_size",
    "shardCheckOnStartup": "shard.check_on_startup",
}
_DYNAMIC_SETTINGS = {
    "autoExpandReplicas": "auto_expand_replicas",
    "blocksRead": "blocks.read",
    "blocksReadOnly": "blocks.read_only",
    "blocksReadOnlyAllowDelete": "blocks.read_only_allow_delete",
    "blocksWrite": "blocks.write",
    "gcDeletes": "gc_deletes",
    "maxResultWindow": "max_result_window",
    "numberOfReplicas": "number_of_replicas",
    "refreshInterval": "refresh_interval",
    "searchIdleAfter": "search.idle.after",
}
_INDEX_SETTINGS = _STATIC_SETTINGS | _DYNAMIC_SETTINGS
_OFFERED = frozenset({"aliases", "mappings", "name", _CONNECTION, *_INDEX_SETTINGS})


def _index_settings(inputs: Properties, names: dict[str, str]) -> Properties:
    return {f"index.{setting}": inputs[name] for name, setting in names.items() if inputs.get(name) is not None}


def _create_index(resource: Resource) -> str:
    inputs = resource.inputs
    name = inputs["name"]
    body = _without_none(
        settings=_index_settings(inputs, _INDEX_SETTINGS) or None,
        mappings=_parsed(inputs.get("mappings")),
        aliases={alias["name"]: _alias_body(alias) for alias in inputs.get("aliases") or []} or None,
    )
    with _cluster(resource) as client:
        id_ = _id(client, name)
        response = client.put(f"/{name}", json=body)
        # an index carries no mark: one of this name, made before it could be recorded, is taken for ours
        is_lost = resource.may_adopt and "resource_already_exists_exception" in response.text
        if response.is_error and not is_lost:
            raise ProviderError(f"PUT /{name}: {response.status_code} {_reason(response)}")
    return id_


def _read_index(resource: Resource) -> Properties:
    name = _name(resource)
    with _cluster(resource) as client:
        answer = _ask(client, "GET", f"/{name}?flat_settings=true", gone=True)
    found = answer[name]
    settings = found["settings"]
    return {
        "aliases": [_found_alias(alias, body) for alias, body in sorted(found["aliases"].items())] or None,
        "mappings": _text(found["mappings"]),
        "name": name,
        "settingsRaw": json.dumps(settings, sort_keys=True),
        # the real provider reads back those settings only that the program names
        **{
            property_: _setting(property_, settings.get(f"index.{key}"))
            for property_, key in _INDEX_SETTINGS.items()
            if property_ in resource.inputs or property_ == "numberOfReplicas"
        },
    }


def _setting(name: str, text: str | None) -> Any:
    if text is None:
        return None
    if name.startswith("blocks"):
        return text == "true"
    return int(text) if re.fullmatch(r"\d+", text) and name.startswith(("number", "max", "routing")) else text


def _update_index(resource: Resource) -> None:
    inputs, state, name = resource.inputs, resource.state, _name(resource)
    with _cluster(resource) as client:
        if not _are_same_aliases(inputs.get("aliases") or [], state.get("aliases") or []):
            _ask(client, "POST", "/_aliases", {"actions": _alias_actions(name, inputs, state)})
        settings = _index_settings(inputs, _DYNAMIC_SETTINGS)
        dropped = {
            f"index.{key}": None
            for property_, key in _DYNAMIC_SETTINGS.items()
            if state.get(property_) is not None and inputs.get(property_) is None and property_ != "numberOfReplicas"
        }
        if settings or dropped:
            _ask(client, "PUT", f"/{name}/_settings", settings | dropped)
        if inputs.get("mappings"):
            _ask(client, "PUT", f"/{name}/_mapping", _parsed(inputs["mappings"]))


def _alias_actions(index: str, inputs: Properties, state: Properties) -> list[Properties]:
    wanted = {alias["name"]: _alias_body(alias) for alias in inputs.get("aliases") or []}
    removed = {alias["name"] for alias in state.get("aliases") or []} - wanted.keys()
    return [
        *({"add": {"index": index, "alias": name, **body}} for name, body in wanted.items()),
        *({"remove": {"index": index, "alias": name}} for name in sorted(removed)),
    ]


def _delete_index(resource: Resource) -> None:
    with _cluster(resource) as client:
        _ask(client, "DELETE", f"/{_name(resource)}", gone=True)


def _is_covered(wanted: str, found: str) -> bool:
    """Whether a mapping holds all that is wanted: Elasticsearch adds fields and never takes one away."""
    return _holds(json.loads(found), json.loads(wanted))


def _holds(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_holds(found.get(key), item) for key, item in wanted.items())
    return str(found).lower() == str(wanted).lower()


def _validate_index(inputs: Properties) -> Problems:
    name = inputs.get("name")
    if isinstance(name, str) and (name != name.lower() or re.search(r'[\\/*?"<>| ,#:]', name)):
        yield "name", f"invalid index name: {name}"
    for alias in inputs.get("aliases") or []:
        if isinstance(alias, dict) and isinstance(alias.get("filter"), str):
            try:
                json.loads(alias["filter"])
            except ValueError:
                yield "aliases", f"the filter of alias {alias.get('name')} is not JSON"


# Roles and API keys


def _role_body(inputs: Properties) -> Properties:
    return _without_none(
        cluster=inputs.get("clusters"),
        run_as=inputs.get("runAs"),
        indices=[_privileges_body(entry) for entry in inputs.get("indices") or []] or None,
        applications=inputs.get("applications"),
        **{"global": _parsed(inputs.get("global"))},
        metadata=_parsed(inputs.get("metadata")),
    )


def _privileges_body(entry: Properties) -> Properties:
    return _without_none(
        names=entry["names"],
        privileges=entry["privileges"],
        query=entry.get("query"),
        field_security=entry.get("fieldSecurity"),
        allow_restricted_indices=entry.get("allowRestrictedIndices"),
    )


def _found_role(answer: Any, name: str) -> Properties:
    found = answer[name]
    indices = [
        _without_none(
            names=entry["names"],
            privileges=entry["privileges"],
            query=entry.get("query"),
            fieldSecurity=entry.get("field_security"),
            allowRestrictedIndices=entry.get("allow_restricted_indices"),
        )
        for entry in found.get("indices") or []
    ]
    return {
        "applications": found.get("applications") or None,
        "clusters": found.get("cluster") or None,
        "global": _text(found.get("global")),
        "indices": indices or None,
        "metadata": _text(found.get("metadata")) or "{}",
        "runAs": found.get("run_as") or None,
    }


def _create_api_key(resource: Resource) -> str:
    inputs = resource.inputs
    body = _without_none(
        name=inputs["name"],
        role_descriptors=_parsed(inputs.get("roleDescriptors")),
        expiration=inputs.get("expiration"),
        metadata=_parsed(inputs.get("metadata")),
    )
    with _cluster(resource) as client:
        made = _ask(client, "POST", "/_security/api_key", body)
        id_ = _id(client, made["id"])
    resource.said_once.update(apiKey=made["api_key"], encoded=made["encoded"])
    return id_


def _read_api_key(resource: Resource) -> Properties:
    with _cluster(resource) as client:
        keys = _ask(client, "GET", f"/_security/api_key?id={_name(resource)}", gone=True)["api_keys"]
    if not keys or keys[0].get("invalidated"):
        raise GoneError(f"API key {_name(resource)} not found")
    found = keys[0]
    return {
        "expirationTimestamp": found.get("expiration") or 0,
        "metadata": _text(found.get("metadata")) or "{}",
        "name": found["name"],
        "roleDescriptors": _text(found.get("role_descriptors")),
    }


def _update_api_key(resource: Resource) -> None:
    raise ProviderError("Cannot update API Key: update not currently supported")


def _delete_api_key(resource: Resource) -> None:
    with _cluster(resource) as client:
        _ask(client, "DELETE", "/_security/api_key", {"ids": [_name(resource)]}, gone=True)


KINDS = {
    "IndexTemplate": _kind(
        "/_index_template",
        _template_body,
        _found_template,
        documents=frozenset({"metadata"}),
        sets=frozenset({"indexPatterns"}),
        same={"template": _is_same_template},
    ),
    "Index": Kind(
        create=_create_index,
        read=_read_index,
        update=_update_index,
        delete=_delete_index,
        autoname=Autoname("name", is_lower=True),
        force_new=frozenset({"name", *_STATIC_SETTINGS}),
        same={"aliases": _are_same_aliases, "mappings": _is_covered},
        computed=frozenset({"mappings"}),
        unsupported=frozenset(schema.load("elasticstack").resources["elasticstack:index/index:Index"].inputs)
        - _OFFERED,
        validate=_validate_index,
    ),
    "SecurityRole": _kind(
        "/_security/role",
        _role_body,
        _found_role,
        documents=frozenset({"global", "metadata"}),
        sets=frozenset({"applications", "clusters", "indices", "runAs"}),
        partial=frozenset({"indices"}),
    ),
    "SecurityApiKey": Kind(
        create=_create_api_key,
        read=_read_api_key,
        update=_update_api_key,
        delete=_delete_api_key,
        autoname=Autoname("name"),
        force_new=frozenset({"expiration", "metadata", "name", "roleDescriptors"}),
        documents=frozenset({"metadata", "roleDescriptors"}),
        secrets=frozenset({"apiKey", "encoded"}),
    ),
}
