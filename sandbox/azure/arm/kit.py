"""What a resource type is to Resource Manager, and the checks that types share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sandbox.azure import refusals
from sandbox.azure.arm.place import Place
from sandbox.azure.customer_key import CustomerKeys
from sandbox.azure.directory import Caller, Directory
from sandbox.azure.rbac import Rbac
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.vault.service import Vaults
from sandbox.azure.world import World


class Functions(Protocol):
    """The processes that function apps run in."""

    def start(self, site: Document) -> None: ...

    def stop(self, site_id: str) -> None: ...


class Backend(Protocol):
    """Where containers and queues really are."""

    def create_container(self, account: Document, name: str) -> None: ...

    def delete_container(self, account: Document, name: str) -> None: ...

    def create_queue(self, account: Document, name: str) -> None: ...

    def delete_queue(self, account: Document, name: str) -> None: ...


@dataclass(frozen=True)
class Kit:
    """What a type's calls need."""

    world: World
    directory: Directory
    rbac: Rbac
    vaults: Vaults
    keys: CustomerKeys
    backend: Backend
    functions: Functions


class Type(Protocol):
    """One resource type. A call returns the document as Resource Manager shows it, or raises AzureError."""

    name: str

    def put(self, kit: Kit, place: Place, body: Document, caller: Caller) -> tuple[int, Document]: ...

    def get(self, kit: Kit, place: Place) -> Document: ...

    def delete(self, kit: Kit, place: Place) -> None: ...

    def list(self, kit: Kit, place: Place) -> list[Document]: ...


def group_location(kit: Kit, place: Place) -> str:
    """The location of the resource's group. Raises AzureError."""
    group = kit.world.store.get("group", place.group_id)
    if group is None:
        raise refusals.NO_GROUP.error(name=place.group)
    return group["location"]


def missing(place: Place) -> AzureError:
    return refusals.NO_RESOURCE_OF_ID.error(
        type="/".join((place.namespace, *place.types)), name="/".join(place.names), group=place.group
    )


def known(document: Mapping[str, Any], allowed: Iterable[str], where: str = "properties") -> None:
    """Refuses what this type does not carry out; a real cloud would carry it out. Raises AzureError."""
    unknown = sorted(set(document) - set(allowed))
    if unknown:
        raise refusals.NOT_OFFERED.error(what=f"{where}: {', '.join(unknown)}")


def bad_request(code: str, message: str) -> AzureError:
    return AzureError(code, message, 400)
