"""Microsoft.EventGrid: system topics of storage accounts, and their subscriptions to queues."""

from __future__ import annotations

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit, bad_request, group_location, known, missing
from sandbox.azure.arm.place import Place
from sandbox.azure.directory import Caller
from sandbox.azure.store import Document
from sandbox.azure.world import SUBSCRIPTIONS, new_id

_TOPIC_TYPE = "microsoft.storage.storageaccounts"
_TYPES = ("Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobDeleted")
_MOST_SUBSCRIPTIONS = 500


class SystemTopics:
    name = "Microsoft.EventGrid/systemTopics"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        location = group_location(kit, place)
        properties = body.get("properties") or {}
        known(properties, ("source", "topicType"))
        source = properties.get("source") or ""
        account = _account_of(kit, source)
        if (properties.get("topicType") or "").lower() != _TOPIC_TYPE or account is None:
            raise bad_request("InvalidRequest", f"Unsupported source or topic type of a system topic: {source}")
        if source.split("/")[2].lower() != place.subscription:
            raise bad_request("InvalidRequest", "The system topic must be in the subscription of its source.")
        with kit.world.store.alone():
            present = kit.world.store.get("topic", place.id)
            if present and present["source"].lower() != source.lower():
                raise refusals.TOPIC_SOURCE_FIXED.error()
            for _, other in kit.world.store.all("topic"):
                if other["source"].lower() == source.lower() and other["id"].lower() != place.id.lower():
                    raise refusals.SECOND_SYSTEM_TOPIC.error(topic=other["id"])
            document = (present or {"id": place.id, "made": kit.world.now(), "principal": None}) | {
                "location": body.get("location") or location,
                "source": source,
                "tags": body.get("tags") or {},
            }
            _set_identity(kit, place, document, (body.get("identity") or {}).get("type") or "None")
            kit.world.store.put("topic", place.id, document)
        return (200 if present else 201), self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("topic", place.id)
        if found is None:
            raise missing(place)
        identity = {}
        if found["principal"]:
            tenant = SUBSCRIPTIONS[place.subscription]
            identity["identity"] = {"principalId": found["principal"], "tenantId": tenant, "type": "SystemAssigned"}
        properties = {
            "metricResourceId": found["id"],
            "provisioningState": "Succeeded",
            "source": found["source"],
            "topicType": "Microsoft.Storage.StorageAccounts",
        }
        return {
            "id": found["id"],
            "location": found["location"],
            "name": place.name,
            "properties": properties,
            "tags": found["tags"],
            "type": self.name,
            **identity,
        }

    def delete(self, kit: Kit, place: Place) -> None:
        found = kit.world.store.delete("topic", place.id)
        if found is None:
            return
        if found["principal"]:
            kit.world.store.delete("principal", found["principal"])
        for key, _ in kit.world.store.all("subscription", f"{place.id}/"):
            kit.world.store.delete("subscription", key)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


def _set_identity(kit: Kit, place: Place, document: Document, kind: str) -> None:
    if kind not in {"None", "SystemAssigned"}:
        raise refusals.NOT_OFFERED.error(what=f"system topics with an identity of type {kind}")
    if kind == "SystemAssigned" and document["principal"] is None:
        principal = kit.directory.add_principal(SUBSCRIPTIONS[place.subscription], new_id(), resource=place.id)
        document["principal"] = principal["id"]
    elif kind == "None" and document["principal"]:
        kit.world.store.delete("principal", document["principal"])
        document["principal"] = None


def _account_of(kit: Kit, resource_id: str) -> Document | None:
    account = kit.world.store.get("account", resource_id.rsplit("/", 1)[-1])
    return account if account and account["id"].lower() == resource_id.lower() else None


class TopicSubscriptions:
    name = "Microsoft.EventGrid/systemTopics/eventSubscriptions"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        topic = kit.world.store.get("topic", place.parent_id)
        if topic is None:
            raise missing(place)
        properties = body.get("properties") or {}
        known(
            properties, ("deliveryWithResourceIdentity", "destination", "eventDeliverySchema", "filter", "retryPolicy")
        )
        if (properties.get("eventDeliverySchema") or "EventGridSchema") != "EventGridSchema":
            raise refusals.NOT_OFFERED.error(what="other schemas than EventGridSchema")
        siblings = [
            each for key, each in kit.world.store.all("subscription", f"{place.parent_id}/") if key != place.id.lower()
        ]
        if len(siblings) >= _MOST_SUBSCRIPTIONS:
            raise bad_request("InvalidRequest", f"A topic has at most {_MOST_SUBSCRIPTIONS} event subscriptions.")
        _check_filter(properties.get("filter") or {})
        _check_destination(kit, topic, properties)
        retry = {"eventTimeToLiveInMinutes": 1440, "maxDeliveryAttempts": 30, **(properties.get("retryPolicy") or {})}
        document = {
            "id": place.id,
            "properties": {**properties, "eventDeliverySchema": "EventGridSchema", "retryPolicy": retry},
        }
        is_new = kit.world.store.get("subscription", place.id) is None
        kit.world.store.put("subscription", place.id, document)
        return (201 if is_new else 200), self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("subscription", place.id)
        if found is None:
            raise missing(place)
        properties = {**found["properties"], "provisioningState": "Succeeded", "topic": place.parent_id}
        return {"id": place.id, "name": place.name, "properties": properties, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        kit.world.store.delete("subscription", place.id)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


def _check_filter(filter_: Document) -> None:
    known(filter_, ("includedEventTypes", "isSubjectCaseSensitive", "subjectBeginsWith", "subjectEndsWith"), "filter")
    if unknown := set(filter_.get("includedEventTypes") or ()) - set(_TYPES):
        raise refusals.NOT_OFFERED.error(what=f"events of type {', '.join(sorted(unknown))}")


def _check_destination(kit: Kit, topic: Document, properties: Document) -> None:
    delivery = properties.get("deliveryWithResourceIdentity")
    destination = (delivery or {}).get("destination") or properties.get("destination") or {}
    if destination.get("endpointType") != "StorageQueue":
        raise refusals.NOT_OFFERED.error(what="event destinations other than a storage queue")
    target = destination.get("properties") or {}
    known(target, ("queueMessageTimeToLiveInSeconds", "queueName", "resourceId"), "destination")
    account = _account_of(kit, target.get("resourceId") or "")
    if account is None or kit.world.store.get("queue", f"{account['name']}/{target.get('queueName')}") is None:
        raise bad_request("Endpoint validation", "Destination endpoint not found: the queue does not exist.")
    if delivery is None:
        # Without an identity Event Grid writes with the account's key, and there is none here.
        raise bad_request("InvalidRequest", "Shared keys are off: the queue needs deliveryWithResourceIdentity.")
    if (delivery.get("identity") or {}).get("type") != "SystemAssigned" or topic["principal"] is None:
        raise bad_request("InvalidRequest", "The identity of the delivery is not one of the system topic's.")
