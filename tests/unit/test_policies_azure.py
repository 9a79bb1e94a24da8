"""The rules for Azure: as functions, and over everything that the program asks Azure for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import azure_graph
import graph
import layouts
import pytest

from policies import access, azure, kinds, search
from policies.facts import Facts
from policies.judge import Judge
from policies.resource import UNKNOWN, Program, Resource
from policies.rule import Undecided
from stacks import record, stamp, tenant
from stacks.config import StampSettings, parse

ACCOUNT = "/subscriptions/1/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a"
VAULT = "/subscriptions/1/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v"
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
    "azure-storage-purgeable": (
        kinds.AZURE_BLOB_SERVICE,
        {"isVersioningEnabled": False, "deleteRetentionPolicy": {"enabled": False}},
        [{"isVersioningEnabled": True}, {"deleteRetentionPolicy": {"enabled": True}}],
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


def test_a_tenants_identity_never_gets_a_whole_vault():
    officer = {"scope": VAULT, "roleDefinitionId": f"/x/{azure._OFFICERS[0]}"}
    rule = next(rule for rule in azure.RULES if rule.id == "azure-access-narrow")
    in_stamp, in_tenant = (
        Resource(f"urn:pulumi:{stack}::keyshift::t::n", kinds.AZURE_ROLE_ASSIGNMENT, officer)
        for stack in ("stamp-azure-westeurope-01", "tenant-acme")
    )
    assert Judge().found(rule, in_stamp, {}) == []
    assert Judge().found(rule, in_tenant, {}), "every key of every tenant would be in its reach"
    user = Resource(in_stamp.urn, in_stamp.type, {**officer, "roleDefinitionId": "/x/e147488a"})
    assert Judge().found(rule, user, {})


@pytest.mark.parametrize("name", layouts.AZURE)
@pytest.mark.parametrize("is_preview", [False, True])
def test_nothing_that_a_tenant_asks_azure_for_breaks_a_rule(name, is_preview):
    layout = layouts.AZURE[name]()
    built = graph.run(lambda: tenant.build(layout), stack="tenant-acme", is_preview=is_preview)
    assert broken(built, "tenant-acme", str(layout.mode)) == []


@pytest.mark.parametrize("is_preview", [False, True])
def test_nothing_that_a_stamp_asks_azure_for_breaks_a_rule(tmp_path, is_preview):
    settings = parse(azure_graph.STAMP, azure_graph.STAMP_CONFIG)
    assert isinstance(settings, StampSettings)
    engine = record.connect(tmp_path)
    built = graph.run(lambda: stamp.build(settings, engine), stack=azure_graph.STAMP, is_preview=is_preview)
    assert broken(built, azure_graph.STAMP, "standard") == []


def test_a_weakened_account_would_be_seen():
    built = graph.run(lambda: tenant.build(layouts.on_azure(layouts.byok_active())), stack="tenant-acme")
    account = built.resources["s1-account"]
    built.resources["s1-account"] = replace(account, inputs={**account.inputs, "allowSharedKeyAccess": True})
    assert broken(built, "tenant-acme", "byok") == [
        "s1-account: whoever has the account's key would read everything, beside every role"
    ]


@pytest.mark.parametrize("name", layouts.AZURE)
def test_a_closed_gate_and_a_storage_that_does_not_serve_are_held_by_the_rules_of_the_whole_stack(name):
    layout = layouts.AZURE[name]()
    built = graph.run(lambda: tenant.build(layout), stack="tenant-acme")
    assert against_freeze(built, layout) == []


def test_a_right_to_write_that_a_freeze_left_would_be_seen():
    layout = layouts.on_azure(layouts.byok_active())
    built = graph.run(lambda: tenant.build(layout), stack="tenant-acme")
    frozen = layout.model_copy(update={"gate": layout.gate.model_copy(update={"jobs": "closed"})})
    assert against_freeze(built, frozen) == [
        "the layout closes what the assignment s1-archive-write gives",
        "the layout closes what the assignment s1-pipeline-annotate gives",
    ]


def against_freeze(built: graph.Graph, layout: Any) -> list[str]:
    every = tuple(
        Resource(f"urn:pulumi:tenant-acme::keyshift::{one.type}::{one.name}", one.type, known(one.inputs))
        for one in built.resources.values()
    )
    facts, wanted = (
        Facts(layout.model_dump(mode="json")),
        {"access-freeze-denies", "access-seal-denies", "search-names-a-key"},
    )
    rules = [rule for rule in (*access.RULES, *search.RULES) if rule.id in wanted]
    assert rules
    return sorted(
        str(one.message)
        for rule in rules
        if rule.check_program
        for one in rule.check_program(Program(every), facts, {})
    )


def broken(built: graph.Graph, stack: str, mode: str) -> list[str]:
    """What breaks a rule, by name."""
    found = []
    for rule in azure.RULES:
        for one in built.resources.values():
            if one.type in rule.types and mode in rule.modes:
                resource = Resource(
                    f"urn:pulumi:{stack}::keyshift::{one.type}::{one.name}", one.type, known(one.inputs)
                )
                found += [f"{one.name}: {what}" for what in Judge().found(rule, resource, {})]
    return found


def known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: known(one) for key, one in value.items()}
    return UNKNOWN if graph.readable(value) == "unknown" else value
