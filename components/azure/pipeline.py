"""What a pipeline gets: a subscription to an account's events, a queue, a dead-letter queue and a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_azure_native as azure

from components import naming
from components.azure.rights import QUEUE_SENDER, assign, definition
from components.index import EDITS, INDEX, KEPT
from components.retention import Retention

BLOB_CHANGES = ("Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobDeleted")
"""https://learn.microsoft.com/azure/event-grid/event-schema-blob-storage"""
DELIVERY_ATTEMPTS = 30
"""Event Grid's most, within the longest time that it keeps an event; what is lost after it a reconcile finds."""
EVENT_MINUTES = 24 * 60
FOR_EVER = -1
COMMAND = "python -m worker.azure"
RUNNING, DETACHED = "running", "detached"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Whose events a pipeline takes: an account's topic, and a container of that account."""

    group: pulumi.Input[str]
    topic: pulumi.Input[str]
    topic_principal: pulumi.Input[str]
    endpoint: pulumi.Input[str]
    container: str


@dataclass(frozen=True, kw_only=True)
class Queues:
    """The vendor's account, in which the queues lie: blob names are no customer data, and one key serves them all."""

    account: pulumi.Input[str]
    account_id: pulumi.Input[str]
    group: pulumi.Input[str]
    endpoint: pulumi.Input[str]


@dataclass(frozen=True, kw_only=True)
class QueuesArgs:
    id: str
    tenant: str
    queues: Queues
    retention: Retention


class PipelineQueues(pulumi.ComponentResource):
    """The queue of a pipeline and its dead letters."""

    queue: str
    dead_letters: str
    scopes: tuple[pulumi.Output[str], pulumi.Output[str]]

    def __init__(self, name: str, args: QueuesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:PipelineQueues", name, None, opts)
        self.queue = naming.pipeline(args.tenant, args.id)
        self.dead_letters = naming.dead_letter_queue(args.tenant, args.id)
        account = pulumi.Output.from_input(args.queues.account_id)
        for logical, queue in ((f"{args.id}-queue", self.queue), (f"{args.id}-dead-letters", self.dead_letters)):
            azure.storage.Queue(
                logical,
                queue_name=queue,
                account_name=args.queues.account,
                resource_group_name=args.queues.group,
                # An event that waits is in no other place, nor is a letter that nobody has looked at.
                opts=args.retention.options(self),
            )
        self.scopes = (
            account.apply(lambda found: f"{found}/queueServices/default/queues/{self.queue}"),
            account.apply(lambda found: f"{found}/queueServices/default/queues/{self.dead_letters}"),
        )
        self.register_outputs({"queue": self.queue, "dead_letters": self.dead_letters})


@dataclass(frozen=True, kw_only=True)
class PipelineArgs:
    """`search_secret`: the address of the worker's credentials. `works_after`: what stands before the worker begins.

    `takes_edits`: it runs, its search serves and jobs are open, so what is edited there goes to the storage.
    """

    id: str
    tenant: str
    subscription: str
    location: str
    group: pulumi.Input[str]
    plan: pulumi.Input[str]
    image: pulumi.Input[str]
    source: Source
    queues: Queues
    made: PipelineQueues
    search: str
    search_secret: pulumi.Input[str]
    identity: pulumi.Input[str]
    client_id: pulumi.Input[str]
    state: str
    takes_edits: bool
    labels: Mapping[str, str]
    works_after: Sequence[pulumi.Resource] = ()


class Pipeline(pulumi.ComponentResource):
    """`running` works, `paused` keeps events, `detached` is made but no event reaches it."""

    function_name: str

    def __init__(self, name: str, args: PipelineArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:Pipeline", name, None, opts)
        self.function_name = naming.web_app(tenant=args.tenant, pipeline=args.id, subscription=args.subscription)
        if args.state != DETACHED:
            self._subscription(args)
        self._worker(args)
        self.register_outputs({"function_name": self.function_name})

    def _subscription(self, args: PipelineArgs) -> None:
        called = naming.pipeline(args.tenant, args.id)
        # By the topic's own identity: with shared keys off there is no other way into the queue.
        may_send = assign(
            f"{args.id}-topic-sends",
            owner=args.tenant,
            role=definition(args.subscription, QUEUE_SENDER),
            principal_id=args.source.topic_principal,
            scope=args.made.scopes[0],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args.made]),
        )
        azure.eventgrid.SystemTopicEventSubscription(
            f"{args.id}-events",
            event_subscription_name=called,
            system_topic_name=args.source.topic,
            resource_group_name=args.source.group,
            event_delivery_schema="EventGridSchema",
            filter=azure.eventgrid.EventSubscriptionFilterArgs(
                included_event_types=list(BLOB_CHANGES),
                subject_begins_with=f"/blobServices/default/containers/{args.source.container}/",
                is_subject_case_sensitive=True,
            ),
            retry_policy=azure.eventgrid.RetryPolicyArgs(
                max_delivery_attempts=DELIVERY_ATTEMPTS, event_time_to_live_in_minutes=EVENT_MINUTES
            ),
            delivery_with_resource_identity=azure.eventgrid.DeliveryWithResourceIdentityArgs(
                identity=azure.eventgrid.EventSubscriptionIdentityArgs(type="SystemAssigned"),
                destination=azure.eventgrid.StorageQueueEventSubscriptionDestinationArgs(
                    endpoint_type="StorageQueue",
                    resource_id=args.queues.account_id,
                    queue_name=args.made.queue,
                    queue_message_time_to_live_in_seconds=FOR_EVER,
                ),
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[may_send]),
        )

    def _worker(self, args: PipelineArgs) -> None:
        settings: dict[str, pulumi.Input[str]] = {
            "BLOB_ENDPOINT": args.source.endpoint,
            "CONTAINER": args.source.container,
            "QUEUE_ENDPOINT": args.queues.endpoint,
            "QUEUE": args.made.queue,
            "DLQ": args.made.dead_letters,
            "INDEX": INDEX,
            "EDITS": EDITS,
            "KEPT": KEPT,
            "SEARCH": args.search,
            "SEARCH_SECRET": args.search_secret,
            "IDENTITY_CLIENT_ID": args.client_id,
            "TAKES_EDITS": "true" if args.takes_edits else "false",
        }
        azure.web.WebApp(
            f"{args.id}-worker",
            name=self.function_name,
            resource_group_name=args.group,
            location=args.location,
            kind="app,linux,container",
            server_farm_id=args.plan,
            enabled=args.state == RUNNING,
            https_only=True,
            client_affinity_enabled=False,
            identity=azure.web.ManagedServiceIdentityArgs(
                type=azure.web.ManagedServiceIdentityType.USER_ASSIGNED, user_assigned_identities=[args.identity]
            ),
            site_config=azure.web.SiteConfigArgs(
                linux_fx_version=pulumi.Output.concat("DOCKER|", args.image),
                app_command_line=COMMAND,
                always_on=True,
                ftps_state=azure.web.FtpsState.DISABLED,
                min_tls_version=azure.web.SupportedTlsVersions.SUPPORTED_TLS_VERSIONS_1_2,
                app_settings=[
                    azure.web.NameValuePairArgs(name=n, value=value) for n, value in sorted(settings.items())
                ],
            ),
            tags=naming.tags(args.labels),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.works_after)),
        )
