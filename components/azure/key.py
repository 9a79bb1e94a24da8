"""What a key gets: the vault and the vendor's own key of a stamp, and what a customer wraps an upload with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_azure_native as azure

from components import naming
from components.azure.rights import KEY_ENCRYPTION_USER, KEY_OFFICER, SECRETS_OFFICER, assign, definition
from components.retention import Retention

SOFT_DELETE_DAYS = 90
"""Key Vault's longest: until it ends a deleted key can be recovered, and its name cannot be used again."""
VENDOR_KEY = "vendor"
VENDOR_KEY_BITS = 3072
WRAPPING_KEY_BITS = 4096


@dataclass(frozen=True, kw_only=True)
class StampVaultArgs:
    """`operator`: the object id of whoever imports keys and drops secrets, by a role at the whole vault."""

    stamp: str
    subscription: str
    directory: str
    location: str
    group: pulumi.Input[str]
    prefix: str
    operator: str
    labels: Mapping[str, str]
    retention: Retention


class StampVault(pulumi.ComponentResource):
    """The vault of a stamp: its vendor's key, its tenants' keys and their searches' credentials.

    Premium, because only an HSM takes a wrapped key; purge protection, because storage takes no key of another vault.
    """

    id: str
    uri: pulumi.Output[str]
    name: pulumi.Output[str]
    vendor_key_uri: pulumi.Output[str]

    def __init__(self, name: str, args: StampVaultArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:StampVault", name, None, opts)
        called = naming.vault(prefix=args.prefix, stamp=args.stamp, subscription=args.subscription)
        self.id = naming.resource_id(
            "Microsoft.KeyVault/vaults",
            called,
            subscription=args.subscription,
            group=naming.resource_group(args.stamp),
        )
        vault = azure.keyvault.Vault(
            "vault",
            vault_name=called,
            resource_group_name=args.group,
            location=args.location,
            properties=azure.keyvault.VaultPropertiesArgs(
                tenant_id=args.directory,
                sku=azure.keyvault.SkuArgs(family="A", name=azure.keyvault.SkuName.PREMIUM),
                enable_rbac_authorization=True,
                enable_soft_delete=True,
                enable_purge_protection=True,
                soft_delete_retention_in_days=SOFT_DELETE_DAYS,
                public_network_access="Enabled",
            ),
            tags=naming.tags(args.labels),
            opts=args.retention.options(self),
        )
        child = pulumi.ResourceOptions(parent=self, depends_on=[vault])
        for logical, role in (("operator-keys", KEY_OFFICER), ("operator-secrets", SECRETS_OFFICER)):
            assign(
                logical,
                owner=args.stamp,
                role=definition(args.subscription, role),
                principal_id=args.operator,
                scope=self.id,
                opts=child,
            )
        key = azure.keyvault.Key(
            "vendor-key",
            key_name=VENDOR_KEY,
            vault_name=vault.name,
            resource_group_name=args.group,
            properties=azure.keyvault.KeyPropertiesArgs(
                kty=azure.keyvault.JsonWebKeyType.RS_A_HSM,
                key_size=VENDOR_KEY_BITS,
                key_ops=["wrapKey", "unwrapKey"],
            ),
            opts=args.retention.options(self),
        )
        self.name = vault.name
        self.uri = vault.properties.apply(lambda found: found.vault_uri or "")
        self.vendor_key_uri = key.key_uri
        self.register_outputs({"id": self.id, "uri": self.uri, "vendor_key_uri": self.vendor_key_uri})


@dataclass(frozen=True, kw_only=True)
class WrappingKeyArgs:
    id: str
    tenant: str
    vault: pulumi.Input[str]
    group: pulumi.Input[str]
    labels: Mapping[str, str]
    retention: Retention


class WrappingKey(pulumi.ComponentResource):
    """The key exchange key of one upload. The customer's key itself comes by the data plane: ARM has no import.

    One an upload, so that no wrapped file can be imported under another key's number.
    """

    kek_name: str

    def __init__(self, name: str, args: WrappingKeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:WrappingKey", name, None, opts)
        self.kek_name = naming.wrapping_key(args.tenant, args.id)
        azure.keyvault.Key(
            f"{args.id}-kek",
            key_name=self.kek_name,
            vault_name=args.vault,
            resource_group_name=args.group,
            properties=azure.keyvault.KeyPropertiesArgs(
                kty=azure.keyvault.JsonWebKeyType.RS_A_HSM,
                key_size=WRAPPING_KEY_BITS,
                key_ops=["import"],
            ),
            tags=naming.tags(args.labels),
            opts=args.retention.options(self),
        )
        self.register_outputs({"kek_name": self.kek_name})


def let_wrap(  # noqa: PLR0913 - whose key, by whom, all by name
    logical: str,
    *,
    owner: str,
    subscription: str,
    vault_id: pulumi.Input[str],
    key_name: str,
    principal_id: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> pulumi.Resource:
    """Lets an identity wrap and unwrap with one key of a vault, and with no other."""
    return assign(
        logical,
        owner=owner,
        role=definition(subscription, KEY_ENCRYPTION_USER),
        principal_id=principal_id,
        scope=pulumi.Output.from_input(vault_id).apply(lambda found: f"{found}/keys/{key_name}"),
        opts=opts,
    )
