"""azure-native.eventgrid: SystemTopic, SystemTopicEventSubscription."""

from __future__ import annotations

from sandbox.provider.kinds import Properties, Resource
from sandbox.provider.types.azure import (
    Arm,
    Document,
    attached,
    given,
    group_path,
    is_same_id,
    is_same_identity,
    kind,
    told,
)

_API = "2025-02-15"
_TOPIC = {
    "metricResourceId": "metricResourceId",
    "provisioningState": "provisioningState",
    "source": "source",
    "topicType": "topicType",
}
_PLAIN = {name: name for name in ("eventDeliverySchema", "filter", "retryPolicy")}
_DESTINATION = {
    "queueMessageTimeToLiveInSeconds": "queueMessageTimeToLiveInSeconds",
    "queueName": "queueName",
    "resourceId": "resourceId",
}


def _topic(resource: Resource) -> str:
    return group_path(resource, f"/providers/Microsoft.EventGrid/systemTopics/{resource.inputs['systemTopicName']}")


def _topic_body(inputs: Properties) -> Document:
    body = {
        "location": inputs.get("location"),
        "properties": given(inputs, {"source": "source", "topicType": "topicType"}),
        "tags": inputs.get("tags") or {},
    }
    return body | ({"identity": attached(inputs["identity"])} if inputs.get("identity") else {})


def _topic_shown(found: Document) -> Properties:
    return {
        **told(found["properties"], _TOPIC),
        "identity": found.get("identity"),
        "location": found["location"],
        "tags": found["tags"] or None,
    }


def _subscription_body(inputs: Properties) -> Document:
    properties = given(inputs, _PLAIN)
    if inputs.get("destination") is not None:
        properties["destination"] = _destination(inputs["destination"])
    if inputs.get("deliveryWithResourceIdentity") is not None:
        delivery = inputs["deliveryWithResourceIdentity"]
        properties["deliveryWithResourceIdentity"] = {
            "destination": _destination(delivery.get("destination") or {}),
            "identity": delivery.get("identity"),
        }
    return {"properties": properties}


def _destination(wanted: Document) -> Document:
    return {"endpointType": wanted.get("endpointType"), "properties": given(wanted, _DESTINATION)}


def _flat(destination: Document) -> Document:
    return {"endpointType": destination["endpointType"], **destination["properties"]}


def _subscription_shown(found: Document) -> Properties:
    properties = found["properties"]
    delivery = properties.get("deliveryWithResourceIdentity")
    return {
        **told(properties, {**_PLAIN, "provisioningState": "provisioningState", "topic": "topic"}),
        "deliveryWithResourceIdentity": delivery and {**delivery, "destination": _flat(delivery["destination"])},
        "destination": properties.get("destination") and _flat(properties["destination"]),
    }


KINDS = {
    "SystemTopic": kind(
        Arm(
            token="azure-native:eventgrid:SystemTopic",
            api=_API,
            path=_topic,
            body=_topic_body,
            shown=_topic_shown,
            name="systemTopicName",
            takes=frozenset(
                {"identity", "location", "resourceGroupName", "source", "systemTopicName", "tags", "topicType"}
            ),
            fixed=frozenset({"location", "resourceGroupName", "source", "systemTopicName", "topicType"}),
        ),
        partial=frozenset({"identity"}),
        same={"identity": is_same_identity, "source": is_same_id},
        unforeseen=frozenset({"identity"}),
    ),
    "SystemTopicEventSubscription": kind(
        Arm(
            token="azure-native:eventgrid:SystemTopicEventSubscription",
            api=_API,
            path=lambda resource: f"{_topic(resource)}/eventSubscriptions/{resource.inputs['eventSubscriptionName']}",
            body=_subscription_body,
            shown=_subscription_shown,
            name="eventSubscriptionName",
            takes=frozenset(
                {
                    "deliveryWithResourceIdentity",
                    "destination",
                    "eventSubscriptionName",
                    "resourceGroupName",
                    "systemTopicName",
                    *_PLAIN,
                }
            ),
            fixed=frozenset({"eventSubscriptionName", "resourceGroupName", "systemTopicName"}),
        ),
        partial=frozenset({"deliveryWithResourceIdentity", "filter", "retryPolicy"}),
        computed=frozenset({"eventDeliverySchema", "retryPolicy"}),
    ),
}
