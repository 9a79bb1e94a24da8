"""The rules for Azure, as functions: no component makes these resources yet."""

from __future__ import annotations

from typing import Any

import pytest

from policies import azure, kinds
from policies.judge import Judge
from policies.resource import UNKNOWN, Resource
from policies.rule import Undecided

ACCOUNT = "/subscriptions/1/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a"
CASES: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "azure-storage-under-a-vault-key": (
        kinds.AZURE_ACCOUNT,
        {"encryption": {"keySource": "Microsoft.Keyvault", "keyVaultProperties": {"keyName": "k1"}}},
        [{"encryption": {"keySource": "Microsoft.Storage"}}, {}, {"encryption": {"keySource": "Microsoft.Keyvault"}}],
    ),
    "azure-storage-no-shared-key": (
        kinds.AZURE_ACCOUNT,
        {"allowSharedKeyAccess": False},
        [{"allowSharedKeyAccess": True}, {}],
    ),
    "azure-storage-private": (kinds.AZURE_ACCOUNT, {"allowBlobPublicAccess": False}, [{"allowBlobPublicAccess": True}]),
    "azure-storage-tls-only": (
        kinds.AZURE_ACCOUNT,
        {"minimumTlsVersion": "TLS1_2", "enableHttpsTrafficOnly": True},
        [{"minimumTlsVersion": "TLS1_0"}, {"minimumTlsVersion": "TLS1_2", "enableHttpsTrafficOnly": False}, {}],
    ),
    "azure-storage-versioned": (
        kinds.AZURE_BLOB_SERVICE,
        {"isVersioningEnabled": True},
        [{"isVersioningEnabled": False}, {}],
    ),
    "azure-storage-container-private": (kinds.AZURE_CONTAINER, {}, [{"publicAccess": "Blob"}]),
    "azure-keys-purge-protected": (
        kinds.AZURE_VAULT,
        {"properties": {"enablePurgeProtection": True, "softDeleteRetentionInDays": 90}},
        [{"properties": {"softDeleteRetentionInDays": 90}}, {"properties": {"enablePurgeProtection": True, "softDeleteRetentionInDays": 7}}],
    ),
    "azure-keys-import-only": (
        kinds.AZURE_KEY,
        {"properties": {"kty": "RSA-HSM", "keyOps": ["import"]}},
        [{"properties": {"kty": "RSA-HSM", "keyOps": ["import", "decrypt"]}}, {"properties": {"kty": "RSA", "keyOps": ["import"]}}],
    ),
    "azure-access-narrow": (
        kinds.AZURE_ROLE_ASSIGNMENT,
        {"scope": f"{ACCOUNT}/blobServices/default/containers/acme"},
        [{"scope": "/subscriptions/1"}, {"scope": "/subscriptions/1/resourceGroups/g"}],
    ),
}  # fmt: skip


def found(id: str, type_: str, props: dict[str, Any]) -> list[str | Undecided]:
    rule = next(rule for rule in azure.RULES if rule.id == id)
    return Judge().found(rule, Resource("urn::k1-kek", type_, props), {})


@pytest.mark.parametrize("id", CASES)
def test_what_is_right_passes_and_what_is_wrong_or_unknown_does_not(id):
    type_, right, wrong = CASES[id]
    assert found(id, type_, right) == []
    for props in wrong:
        assert found(id, type_, props), props
    for property_ in right:
        assert found(id, type_, {**right, property_: UNKNOWN}), f"{property_} is not known and passes"


def test_nothing_is_made_in_a_directory_but_our_own_application():
    assert found("azure-keys-nothing-at-the-customer", "azuread:index/user:User", {})
    assert found("azure-keys-nothing-at-the-customer", "azuread:index/application:Application", {}) == []


def test_every_rule_for_azure_is_here():
    assert {rule.id for rule in azure.RULES} == {*CASES, "azure-keys-nothing-at-the-customer"}
