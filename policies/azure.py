"""The same on Azure, by the shapes of azure-native."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policies import kinds
from policies.resource import UNKNOWN, Resource
from policies.rule import Found, OnUnknown, Rule, Severity

LEARN = "https://learn.microsoft.com/azure"
LEAST_DAYS = 7
HOME_KINDS = frozenset({"azuread:index/application:Application"})
"""What is made of Entra, in our own directory: the application that a customer installs."""
_NARROW = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/"
    r"(Microsoft\.Storage/storageAccounts/[^/]+(/.+)?|Microsoft\.KeyVault/vaults/[^/]+/(keys|secrets)/[^/]+)"
)
_VAULT = re.compile(r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.KeyVault/vaults/[^/]+")
_OFFICERS = ("14b46e9e-c2b7-41b4-b07b-48a6ebf60603", "b86a8fe4-44ce-4948-aee5-eccb2c155cd7")
"""Key Vault Crypto Officer and Secrets Officer: who imports a key cannot be given it before it is there."""


def _encrypted(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("encryption.keySource") != "Microsoft.Keyvault":
        yield "the account would lie under Microsoft's own key"
    elif not one.get("encryption.keyVaultProperties.keyName"):
        yield "no key of a vault is named"


def _no_shared_key(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("allowSharedKeyAccess") is not False:
        yield "whoever has the account's key would read everything, beside every role"


def _private(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("allowBlobPublicAccess") is not False:
        yield "a container could be opened to everybody"


def _tls(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("enableHttpsTrafficOnly", default=True) is not True or one.get("minimumTlsVersion") not in {
        "TLS1_2",
        "TLS1_3",
    }:
        yield "requests without TLS 1.2 would be answered"


def _purgeable(one: Resource, _: Mapping[str, Any]) -> Found:
    for kept in ("isVersioningEnabled", "deleteRetentionPolicy.enabled", "containerDeleteRetentionPolicy.enabled"):
        if one.get(kept, default=False) is not False:
            yield f"{kept} would keep what a purge has deleted"


def _container_private(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("publicAccess", default="None") != "None":
        yield "the container is open to everybody"


def _purge_protected(one: Resource, settings: Mapping[str, Any]) -> Found:
    if one.get("properties.enablePurgeProtection") is not True:
        yield "a deleted key could be purged at once"
    days = one.get("properties.softDeleteRetentionInDays", default=90)
    least = max(LEAST_DAYS, settings["soft_delete_days"])
    if days is UNKNOWN or days < least:
        yield f"a deleted key could be recovered for {days} days only; the least is {least:.0f}"


def _import_only(one: Resource, _: Mapping[str, Any]) -> Found:
    operations = one.get("properties.keyOps", default=[])
    if one.name.endswith("-kek") and operations != ["import"]:
        yield "a key that only wraps an upload may do more than import"
    if one.get("properties.kty") not in {"RSA-HSM", "EC-HSM"}:
        yield "the key would leave the HSM's boundary"


def _narrow(one: Resource, _: Mapping[str, Any]) -> Found:
    scope = one.get("scope")
    if one.tenant is None and isinstance(scope, str) and _VAULT.fullmatch(scope):
        if not str(one.get("roleDefinitionId")).endswith(_OFFICERS):
            yield "a role for a whole vault is an officer's, who imports keys and drops secrets, and no one else's"
    elif not isinstance(scope, str) or not _NARROW.fullmatch(scope):
        yield "the role is assigned for more than one account, container or key that is known"


def _not_at_the_customer(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.type.startswith(kinds.AZURE_AD_PREFIX) and one.type not in HOME_KINDS:
        yield "it would be made in a directory; the customer installs our application by itself"


def _rules() -> Iterator[Rule]:
    account = frozenset({kinds.AZURE_ACCOUNT})
    yield _rule(
        "azure-storage-under-a-vault-key",
        "An account of a tenant's own lies under a key of a vault.",
        "Set encryption.key_source='Microsoft.Keyvault' and the key's name.",
        f"{LEARN}/storage/common/customer-managed-keys-overview",
        _encrypted,
        account,
        ("NIST 800-57 5.3", "CIS Azure 3.12"),
        modes=("byok", "byokv"),
    )
    yield _rule(
        "azure-storage-no-shared-key",
        "An account takes no access by its key.",
        "Set allow_shared_key_access=False.",
        f"{LEARN}/storage/common/shared-key-authorization-prevent",
        _no_shared_key,
        account,
        ("CIS Azure 3.3", "SOC 2 CC6.1"),
    )
    yield _rule(
        "azure-storage-private",
        "No container of an account can be opened to everybody.",
        "Set allow_blob_public_access=False.",
        f"{LEARN}/storage/blobs/anonymous-read-access-prevent",
        _private,
        account,
        ("CIS Azure 3.7", "SOC 2 CC6.6"),
    )
    yield _rule(
        "azure-storage-tls-only",
        "An account answers by TLS 1.2 or newer only.",
        "Set minimum_tls_version='TLS1_2' and enable_https_traffic_only=True.",
        f"{LEARN}/storage/common/transport-layer-security-configure-minimum-version",
        _tls,
        account,
        ("CIS Azure 3.15", "SOC 2 CC6.7"),
    )
    yield _rule(
        "azure-storage-purgeable",
        "An account keeps nothing of what is deleted: a purge under a verdict is a purge.",
        "Set is_versioning_enabled=False and both delete_retention policies to enabled=False.",
        f"{LEARN}/storage/blobs/soft-delete-blob-overview",
        _purgeable,
        frozenset({kinds.AZURE_BLOB_SERVICE}),
        ("SOC 2 C1.2", "ISO 27001 A.8.10"),
    )
    yield _rule(
        "azure-storage-container-private",
        "A container is not public.",
        "Set public_access=PublicAccess.NONE.",
        f"{LEARN}/storage/blobs/anonymous-read-access-configure",
        _container_private,
        frozenset({kinds.AZURE_CONTAINER}),
        ("CIS Azure 3.7", "SOC 2 CC6.6"),
    )
    yield _rule(
        "azure-keys-purge-protected",
        "A vault keeps deleted keys for as long as the site asks, and nobody can purge one.",
        "Set enable_purge_protection=True and raise soft_delete_retention_in_days.",
        f"{LEARN}/key-vault/general/soft-delete-overview",
        _purge_protected,
        frozenset({kinds.AZURE_VAULT}),
        ("CIS Azure 8.5", "NIST 800-57 8.3.4"),
        settings={
            "soft_delete_days": {
                "type": "integer",
                "minimum": LEAST_DAYS,
                "maximum": 90,
                "default": 90,
                "description": "For how many days a deleted key can be recovered",
            }
        },
    )
    yield _rule(
        "azure-keys-import-only",
        "Keys lie in an HSM, and one that wraps uploads can do nothing else.",
        "Set kty='RSA-HSM', and key_ops=['import'] on the wrapping key.",
        f"{LEARN}/key-vault/keys/byok-specification",
        _import_only,
        frozenset({kinds.AZURE_KEY}),
        ("NIST 800-57 8.1.5.2", "SOC 2 CC6.1"),
        modes=("byok",),
    )
    yield _rule(
        "azure-access-narrow",
        "A role is assigned for one container, queue, secret or key; a stamp's officers have its vault.",
        "Take the scope from the id of the container, queue, secret or key.",
        f"{LEARN}/role-based-access-control/best-practices",
        _narrow,
        frozenset({kinds.AZURE_ROLE_ASSIGNMENT}),
        ("CIS Azure 1.23", "SOC 2 CC6.3"),
    )
    yield _rule(
        "azure-keys-nothing-at-the-customer",
        "Nothing is made in the customer's directory.",
        "Print the consent link; the customer installs the application and assigns it a role.",
        f"{LEARN}/storage/common/customer-managed-keys-configure-cross-tenant-existing-account",
        _not_at_the_customer,
        frozenset({"azuread:index/servicePrincipal:ServicePrincipal", "azuread:index/user:User"}),
        ("SOC 2 CC6.3",),
        modes=("byokv",),
    )


def _rule(  # noqa: PLR0913, PLR0917 - the columns of a table
    id: str,
    sentence: str,
    remediation: str,
    url: str,
    check: Any,
    types: frozenset[str],
    controls: tuple[str, ...],
    modes: tuple[str, ...] = ("standard", "byok", "byokv"),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Rule:
    return Rule(
        id=id,
        topic="azure",
        sentence=sentence,
        remediation=remediation,
        severity=Severity.HIGH,
        url=url,
        unknown=OnUnknown.DENIED,
        controls=controls,
        cloud="azure",
        modes=modes,
        types=types,
        check=check,
        settings=settings or {},
    )


RULES = tuple(_rules())
