"""What a storage account gets: the shared account of a stamp, a tenant's container in it, and a tenant's own account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_azure_native as azure

from components import naming
from components.azure.lag import RoleLag
from components.retention import Retention

TOPIC_TYPE = "Microsoft.Storage.StorageAccounts"
PACKAGES = "packages"
"""The container of the stamp's account with the worker's code."""
CURRENT = ""
"""No version: the account follows the newest. Sent and not left out, or an account that was pinned would stay so.
https://learn.microsoft.com/azure/storage/common/customer-managed-keys-overview"""


@dataclass(frozen=True, kw_only=True)
class AccountKey:
    """The key of an account and who unwraps with it.

    `version` pins it. `client_id`: the application by which `identity` reaches a vault of another directory.
    """

    vault_uri: pulumi.Input[str]
    name: str
    version: str
    identity: pulumi.Input[str]
    client_id: pulumi.Input[str] | None = None


@dataclass(frozen=True, kw_only=True)
class AccountArgs:
    """`account_id`: what Azure will call it. `works_after`: what must stand before the account can use its key.

    `role_lag`: who waits until that has spread.
    """

    id: str
    account: str
    account_id: str
    group: pulumi.Input[str]
    location: str
    key: AccountKey
    labels: Mapping[str, str]
    retention: Retention
    role_lag: RoleLag
    works_after: Sequence[pulumi.Resource] = ()


class Account(pulumi.ComponentResource):
    """A storage account under one key, with the topic of its events. Nothing deleted in it stays: a purge is a purge."""

    id: str
    name: pulumi.Output[str]
    endpoint: pulumi.Output[str]
    queue_endpoint: pulumi.Output[str]
    current_key: pulumi.Output[str | None]
    topic: pulumi.Output[str]
    topic_principal: pulumi.Output[str]
    resource: pulumi.Resource

    def __init__(self, name: str, args: AccountArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:Account", name, None, opts)
        account = self._account(args)
        inside = pulumi.ResourceOptions(parent=self, deleted_with=account, protect=args.retention.protect)
        azure.storage.BlobServiceProperties(
            f"{args.id}-blobs",
            account_name=account.name,
            resource_group_name=args.group,
            blob_services_name="default",
            is_versioning_enabled=False,
            delete_retention_policy=azure.storage.DeleteRetentionPolicyArgs(enabled=False),
            container_delete_retention_policy=azure.storage.DeleteRetentionPolicyArgs(enabled=False),
            opts=inside,
        )
        # One a source, Azure takes no second: all pipelines of an account share it.
        topic = azure.eventgrid.SystemTopic(
            f"{args.id}-topic",
            system_topic_name=args.account,
            resource_group_name=args.group,
            location=args.location,
            source=account.id,
            topic_type=TOPIC_TYPE,
            identity=azure.eventgrid.IdentityInfoArgs(type="SystemAssigned"),
            tags=naming.tags(args.labels),
            opts=pulumi.ResourceOptions(parent=self, protect=args.retention.protect),
        )
        self.resource = account
        self.id, self.name = args.account_id, account.name
        self.endpoint = account.primary_endpoints.apply(lambda found: found.blob)
        self.queue_endpoint = account.primary_endpoints.apply(lambda found: found.queue)
        self.current_key = account.encryption.apply(_current_key)
        self.topic = topic.name
        self.topic_principal = topic.identity.apply(_principal)
        self.register_outputs({"id": self.id, "endpoint": self.endpoint})

    def _account(self, args: AccountArgs) -> azure.storage.StorageAccount:
        key = args.key
        whole = azure.storage.EncryptionServiceArgs(enabled=True, key_type=azure.storage.KeyType.ACCOUNT)
        opts = pulumi.ResourceOptions(
            parent=self,
            protect=args.retention.protect,
            hooks=pulumi.ResourceHookBinding.merge(args.retention.hooks, args.role_lag.binding),
            depends_on=list(args.works_after),
        )
        return azure.storage.StorageAccount(
            f"{args.id}-account",
            account_name=args.account,
            resource_group_name=args.group,
            location=args.location,
            kind=azure.storage.Kind.STORAGE_V2,
            sku=azure.storage.SkuArgs(name=azure.storage.SkuName.STANDARD_ZRS),
            access_tier=azure.storage.AccessTier.HOT,
            identity=azure.storage.IdentityArgs(
                type=azure.storage.IdentityType.USER_ASSIGNED, user_assigned_identities=[key.identity]
            ),
            encryption=azure.storage.EncryptionArgs(
                key_source=azure.storage.KeySource.MICROSOFT_KEYVAULT,
                encryption_identity=azure.storage.EncryptionIdentityArgs(
                    encryption_user_assigned_identity=key.identity,
                    encryption_federated_identity_client_id=key.client_id,
                ),
                key_vault_properties=azure.storage.KeyVaultPropertiesArgs(
                    key_vault_uri=key.vault_uri, key_name=key.name, key_version=key.version
                ),
                services=azure.storage.EncryptionServicesArgs(blob=whole, file=whole),
                require_infrastructure_encryption=False,
            ),
            allow_blob_public_access=False,
            allow_shared_key_access=False,
            allow_cross_tenant_replication=False,
            default_to_o_auth_authentication=True,
            enable_https_traffic_only=True,
            minimum_tls_version=azure.storage.MinimumTlsVersion.TLS1_2,
            public_network_access=azure.storage.PublicNetworkAccess.ENABLED,
            tags=naming.tags(args.labels),
            opts=opts,
        )


@dataclass(frozen=True, kw_only=True)
class ContainerArgs:
    """`goes_with`: the tenant's own account, with which the container is deleted."""

    id: str
    container: str
    account: pulumi.Input[str]
    group: pulumi.Input[str]
    retention: Retention
    goes_with: pulumi.Resource | None = None


class Container(pulumi.ComponentResource):
    """A tenant's entity: all its blobs and no one else's."""

    container: pulumi.Output[str]

    def __init__(self, name: str, args: ContainerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:Container", name, None, opts)
        container = azure.storage.BlobContainer(
            f"{args.id}-container",
            container_name=args.container,
            account_name=args.account,
            resource_group_name=args.group,
            public_access=azure.storage.PublicAccess.NONE,
            opts=pulumi.ResourceOptions.merge(
                args.retention.options(self), pulumi.ResourceOptions(deleted_with=args.goes_with)
            ),
        )
        self.container = container.name
        self.register_outputs({"container": self.container})


def _principal(identity: azure.eventgrid.outputs.IdentityInfoResponse | None) -> str:
    return (identity.principal_id if identity else None) or ""


def _current_key(encryption: azure.storage.outputs.EncryptionResponse | None) -> str | None:
    properties = encryption.key_vault_properties if encryption else None
    return properties.current_versioned_key_identifier if properties else None
