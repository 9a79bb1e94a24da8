"""What the types of azure-native share: a PUT of the whole, a GET, a DELETE, and how names stand on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.provider import schema
from sandbox.provider.errors import GoneError, ProviderError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource

Document = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One resource type in Resource Manager.

    `path` is its id from its inputs; `body` the PUT's document from them; `shown` the outputs from the document that
    a GET answers.
    """

    token: str
    api: str
    path: Callable[[Resource], str]
    body: Callable[[Properties], Document]
    shown: Callable[[Document], Properties]
    name: str  # the input that names it
    takes: frozenset[str]
    fixed: frozenset[str]


def group_path(resource: Resource, rest: str) -> str:
    """An id in the resource's group."""
    group = resource.inputs["resourceGroupName"]
    return f"/subscriptions/{resource.clouds.azure.subscription}/resourceGroups/{group}{rest}"


def kind(
    arm: Arm,
    *,
    delete: Callable[[Resource], None] | None = None,
    update: Callable[[Resource], None] | None = None,
    is_there_already: bool = False,
    same: Mapping[str, Callable[[Any, Any], bool]] | None = None,
    partial: frozenset[str] = frozenset(),
    unforeseen: frozenset[str] = frozenset(),
    unread: frozenset[str] = frozenset(),
    sets: frozenset[str] = frozenset(),
    secrets: frozenset[str] = frozenset(),
    computed: frozenset[str] = frozenset(),
    volatile: frozenset[str] = frozenset(),
    defaults: Mapping[str, Any] | None = None,
    validate: Callable[[Properties], Problems] = lambda _inputs: (),
) -> Kind:
    """The Kind of a type. What the program may not say is refused in Check; so is a missing name."""
    known = schema.load("azure-native").resources[arm.token]

    def put(resource: Resource, id_: str) -> None:
        resource.clouds.azure.resource_manager("PUT", id_, arm.api, arm.body(resource.inputs))

    def create(resource: Resource) -> str:
        id_ = arm.path(resource)
        if not is_there_already and _exists(resource, id_, arm.api):
            # pulumi-azure-native asks before it makes; a create that was lost needs `pulumi import`.
            raise ProviderError(f"cannot create already existing resource '{id_}'")
        put(resource, id_)
        return id_

    def read(resource: Resource) -> Properties:
        document = resource.clouds.azure.resource_manager("GET", resource.id, arm.api)
        return {**arm.shown(document), "azureApiVersion": arm.api, "name": document["name"], "type": document["type"]}

    def delete_it(resource: Resource) -> None:
        resource.clouds.azure.resource_manager("DELETE", resource.id, arm.api)

    def all_problems(inputs: Properties) -> Problems:
        if inputs.get(arm.name) is None:
            yield arm.name, f"the sandbox makes up no names on Azure: give {arm.name}"
        yield from validate(inputs)

    outputs = frozenset(known.outputs)
    return Kind(
        create=create,
        read=read,
        update=update or (lambda resource: put(resource, resource.id)),
        delete=delete or delete_it,
        autoname=Autoname(arm.name, suffix_digits=8),
        force_new=arm.fixed,
        same=same or {},
        partial=partial,
        unforeseen=unforeseen,
        unread=unread,
        sets=sets,
        secrets=secrets,
        computed=computed,
        volatile=volatile,
        defaults=defaults or {},
        unsupported=frozenset(known.inputs) - arm.takes,
        absent=outputs
        - arm.takes
        - frozenset({"azureApiVersion", "name", "type"})
        - _SHOWN.get(arm.token, frozenset()),
        validate=all_problems,
    )


# Outputs, besides the inputs, that a GET here answers; what is not named is unknown to the sandbox.
_SHOWN: Mapping[str, frozenset[str]] = {
    "azure-native:authorization:RoleAssignment": frozenset({"createdOn"}),
    "azure-native:eventgrid:SystemTopic": frozenset({"metricResourceId", "provisioningState"}),
    "azure-native:eventgrid:SystemTopicEventSubscription": frozenset({"provisioningState", "topic"}),
    "azure-native:keyvault:Key": frozenset(
        {"attributes", "keyOps", "keySize", "keyUri", "keyUriWithVersion", "kty", "location"}
    ),
    "azure-native:keyvault:Secret": frozenset({"location"}),
    "azure-native:managedidentity:UserAssignedIdentity": frozenset({"clientId", "principalId", "tenantId"}),
    "azure-native:resources:ResourceGroup": frozenset({"properties"}),
    "azure-native:storage:BlobContainer": frozenset(
        {"denyEncryptionScopeOverride", "hasImmutabilityPolicy", "hasLegalHold", "lastModifiedTime"}
    ),
    "azure-native:storage:BlobServiceProperties": frozenset({"sku"}),
    "azure-native:storage:StorageAccount": frozenset(
        {"creationTime", "primaryEndpoints", "primaryLocation", "provisioningState", "statusOfPrimary"}
    ),
    "azure-native:web:AppServicePlan": frozenset({"provisioningState", "status"}),
    "azure-native:web:WebApp": frozenset({"defaultHostName", "state"}),
}


def _exists(resource: Resource, id_: str, api: str) -> bool:
    try:
        resource.clouds.azure.resource_manager("GET", id_, api)
    except GoneError:
        return False
    return True


def given(properties: Mapping[str, Any], names: Mapping[str, str]) -> Document:
    """What a program says of `names` (Pulumi's → Resource Manager's), under Resource Manager's names."""
    return {wire: properties[name] for name, wire in names.items() if properties.get(name) is not None}


def told(document: Mapping[str, Any], names: Mapping[str, str]) -> Properties:
    """The other way round; None for what is not said."""
    return {name: document.get(wire) for name, wire in names.items()}


def attached(identity: Document | None) -> Document | None:
    """`identity` for a PUT: Pulumi's list of ids as Resource Manager's map."""
    if identity is None:
        return None
    ids = identity.get("userAssignedIdentities")
    return {"type": identity["type"]} | ({"userAssignedIdentities": {each: {} for each in ids}} if ids else {})


def is_same_identity(wanted: Any, found: Any) -> bool:
    """Ids as a list (what a program says) or as the keys of a map (what is found)."""

    def meaning(identity: Any) -> tuple[str, tuple[str, ...]]:
        ids = identity.get("userAssignedIdentities") or ()
        return identity.get("type", ""), tuple(sorted(each.lower() for each in ids))

    return meaning(wanted) == meaning(found)


def is_same_id(wanted: Any, found: Any) -> bool:
    return str(wanted).lower() == str(found).lower()
