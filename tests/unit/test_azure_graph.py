"""What the program asks Azure for, as a whole, for every shape of a tenant; and what it never does."""

from __future__ import annotations

import itertools
import os

import azure_graph
import graph
import layouts
import pulumi
import pytest
from graph import Graph, Registered

from components.azure import lag
from stacks import guard, record, stamp, tenant
from stacks.config import StampSettings, parse
from stacks.errors import ConfigError, GuardError
from stacks.layout import Key, KeyState, Layout

WRITE = os.environ.get("KEYSHIFT_GOLDEN") == "write"

ACCOUNT = "azure-native:storage:StorageAccount"
ASSIGNMENT = "azure-native:authorization:RoleAssignment"
CONTAINER = "azure-native:storage:BlobContainer"
KEY = "azure-native:keyvault:Key"
VAULT = "azure-native:keyvault:Vault"
WORKER = "azure-native:web:WebApp"
STATEFUL = {ACCOUNT, CONTAINER, KEY, VAULT, "ec:index/deployment:Deployment", "elasticstack:index/index:Index"}

# A change of one of these makes the provider replace the resource (azure-native's schema, "willReplaceOnChanges").
REPLACED_BY = {
    ACCOUNT: ("accountName", "location", "kind", "resourceGroupName"),
    CONTAINER: ("accountName", "containerName", "resourceGroupName"),
    KEY: ("keyName", "vaultName", "resourceGroupName", "properties"),
    VAULT: ("vaultName", "location", "resourceGroupName"),
    ASSIGNMENT: ("roleAssignmentName", "scope", "principalId", "roleDefinitionId"),
    "azure-native:storage:Queue": ("accountName", "queueName", "resourceGroupName"),
    "azure-native:managedidentity:UserAssignedIdentity": ("resourceName", "location", "resourceGroupName"),
    "azure-native:eventgrid:SystemTopic": ("systemTopicName", "source", "location", "resourceGroupName"),
    "azure-native:resources:ResourceGroup": ("resourceGroupName", "location"),
    "ec:index/deployment:Deployment": ("region", "deploymentTemplateId", "encryptionKeyPath", "name"),
}


def build(layout: Layout, *, is_preview: bool = False) -> Graph:
    return graph.run(lambda: tenant.build(layout), stack="tenant-acme", is_preview=is_preview)


def build_stamp(tmp_path, *, is_preview: bool = False) -> Graph:
    settings = parse(azure_graph.STAMP, azure_graph.STAMP_CONFIG)
    assert isinstance(settings, StampSettings)
    engine = record.connect(tmp_path)
    return graph.run(lambda: stamp.build(settings, engine), stack=azure_graph.STAMP, is_preview=is_preview)


@pytest.mark.parametrize("name", layouts.AZURE)
def test_a_tenant_gets_exactly_the_resources_of_its_layout(name):
    graph.check_golden(f"azure_tenant_{name}", build(layouts.AZURE[name]()), write=WRITE)


def test_a_stamp_gets_exactly_its_shared_side(tmp_path):
    graph.check_golden("azure_stamp", build_stamp(tmp_path), write=WRITE)


@pytest.mark.parametrize("name", layouts.AZURE)
def test_a_preview_asks_for_the_same_resources_as_the_run(name):
    real, preview = build(layouts.AZURE[name]()), build(layouts.AZURE[name](), is_preview=True)
    assert {n: (r.type, r.parent, r.protect) for n, r in preview.resources.items()} == {
        n: (r.type, r.parent, r.protect) for n, r in real.resources.items()
    }, "a resource that only one of the two registers makes the plan and the update differ"


def test_a_stamp_previews_as_it_runs(tmp_path):
    assert build_stamp(tmp_path, is_preview=True).resources.keys() == build_stamp(tmp_path).resources.keys()


def test_every_stateful_resource_is_protected_and_asks_for_a_verdict_before_its_delete():
    seen = set()
    for name, make in layouts.AZURE.items():
        for one in build(make()).resources.values():
            if one.type not in STATEFUL:
                continue
            seen.add(one.type)
            released = name == "enable_released" and one.name.startswith(("e1-", "s1-"))
            assert one.protect is not released, f"{one.name} in {name}"
            assert one.before_delete == (guard.VERDICT_HOOK,), f"{one.name} in {name} could be deleted unasked"
    assert seen == STATEFUL - {VAULT}


def test_a_stamps_vault_key_and_account_are_protected_while_a_tenant_sits_on_it(tmp_path):
    built = build_stamp(tmp_path)
    for name in ("vault", "vendor-key", "shared-account"):
        assert (built.resources[name].protect, built.resources[name].before_delete) == (True, (guard.STAMP_HOOK,))
    record.insert(record.connect(tmp_path), layouts.on_azure(layouts.standard()))
    with pytest.raises(GuardError, match="1 tenants sit on it: acme"):
        built.hooks[guard.STAMP_HOOK](pulumi.ResourceHookArgs(urn="urn", id="id", name="shared-account", type=ACCOUNT))


def test_no_change_of_gate_or_state_replaces_anything():
    frozen = layouts.on_azure(layouts.enable_frozen())
    life = [layouts.on_azure(make()) for make in (layouts.enable_served, layouts.enable_released, layouts.enable_done)]
    life.append(layouts.sealed(life[-1]))
    graphs = [build(layout) for layout in (frozen, *life)]
    for earlier, later in itertools.pairwise(graphs):
        for name in earlier.resources.keys() & later.resources.keys():
            assert _identity(earlier.resources[name]) == _identity(later.resources[name]), f"{name} would be replaced"


def test_a_rotation_changes_the_accounts_version_and_nothing_else_that_stays():
    before, after = build(layouts.on_azure(layouts.byok_active())), build(layouts.azure_rotation())
    changed = {n for n in before.resources if before.resources[n] != after.resources[n]}
    assert changed == {"s1-account", "s1-topic", "p1-worker"}, "the last two in their labels alone"
    keys = [g.resources["s1-account"].inputs["encryption"]["keyVaultProperties"] for g in (before, after)]
    assert [key["keyVersion"] for key in keys] == ["version-k1", "version-k2"]
    assert keys[0]["keyName"] == keys[1]["keyName"], "a new upload is a new version of the tenant's one key"
    assert after.resources.keys() - before.resources.keys() == {"k2", "k2-kek"}, "no new search on Azure"


def test_what_the_gate_closes_is_not_there_and_a_runner_always_is():
    opened = layouts.on_azure(layouts.byok_active())
    jobs_closed = layouts.changed(opened, gate={"jobs": "closed"})
    shut = layouts.changed(opened, gate={"jobs": "closed", "access": "closed"})
    given = [set(build(one).of_type(ASSIGNMENT)) for one in (opened, jobs_closed, shut)]
    assert given[0] - given[1] == {"s1-archive-write", "s1-pipeline-annotate"}, "what a freeze waits to see refused"
    assert not {
        name for name in given[2] if "archive-" in name.replace("-archive-secret", "") or "pipeline-" in name
    } - {"e1-runner-pipeline-secret"}
    assert (
        {name for name in given[0] if "-runner-" in name} == {name for name in given[2] if "-runner-" in name} != set()
    )
    assert build(shut).resources["p1-worker"].inputs["enabled"] is False


def test_a_detached_pipeline_stands_but_no_event_reaches_it():
    built = build(layouts.on_azure(layouts.enable_frozen()))
    assert {"p2-queue", "p2-worker", "p1-events", "p1-topic-sends"} <= built.resources.keys()
    assert not {"p2-events", "p2-topic-sends"} & built.resources.keys()


def test_every_right_of_a_tenant_lies_at_one_container_secret_queue_or_key():
    kinds = ("/containers/", "/secrets/", "/queues/", "/keys/")
    for name, make in layouts.AZURE.items():
        for one in build(make()).of_type(ASSIGNMENT).values():
            scope = one.inputs["scope"]
            assert any(kind in scope for kind in kinds), f"{one.name} in {name} reaches more: {scope}"
            assert "acme" in scope.rpartition("/")[2], f"{one.name} in {name} reaches another tenant's: {scope}"
            assert one.inputs["principalType"] == "ServicePrincipal", "else a fresh identity is PrincipalNotFound"


def test_no_account_takes_its_own_key_or_keeps_what_is_deleted(tmp_path):
    for built in (build_stamp(tmp_path), build(layouts.on_azure(layouts.byok_active()))):
        for account in built.of_type(ACCOUNT).values():
            assert account.inputs["allowSharedKeyAccess"] is False
            assert account.inputs["allowBlobPublicAccess"] is False
            assert account.inputs["minimumTlsVersion"] == "TLS1_2"
        for blobs in built.of_type("azure-native:storage:BlobServiceProperties").values():
            assert blobs.inputs["isVersioningEnabled"] is False
            assert blobs.inputs["deleteRetentionPolicy"] == {"enabled": False}, "a purge has to be a purge"
            assert blobs.inputs["containerDeleteRetentionPolicy"] == {"enabled": False}


def test_a_wrapping_key_can_import_and_nothing_else():
    kek = build(layouts.on_azure(layouts.byok_pending())).resources["k1-kek"].inputs
    assert (kek["properties"]["keyOps"], kek["properties"]["kty"]) == (["import"], "RSA-HSM")


def test_the_right_to_wrap_comes_once_there_is_a_key_and_before_the_account():
    assert "key-wraps" not in build(layouts.on_azure(layouts.byok_pending())).resources
    built = build(layouts.on_azure(layouts.byok_active()))
    assert "key-wraps" in built.resources["s1-account"].depends_on


def test_a_byokv_tenant_names_the_customers_key_and_makes_none():
    built = build(layouts.on_azure(layouts.byokms_active()))
    assert not built.of_type(KEY)
    assert "key-identity" not in built.resources
    encryption = built.resources["s1-account"].inputs["encryption"]
    assert encryption["keyVaultProperties"] == {
        "keyVaultUri": "https://acme-archive.vault.azure.net/",
        "keyName": "archive",
        "keyVersion": "",
    }
    assert encryption["encryptionIdentity"] == {
        "encryptionUserAssignedIdentity": azure_graph.STAMP_OUTPUTS["encryption_identity_id"],
        "encryptionFederatedIdentityClientId": azure_graph.STAMP_OUTPUTS["app_client_id"],
    }


def test_a_search_lies_under_elastics_own_key():
    for name, make in layouts.AZURE.items():
        for one in build(make()).of_type("ec:index/deployment:Deployment").values():
            assert one.inputs.get("encryptionKeyPath") is None, f"{one.name} in {name}"


def test_credentials_reach_the_vault_only_as_pulumi_secrets():
    built = build(layouts.on_azure(layouts.enable_frozen()))
    secrets = built.of_type("azure-native:keyvault:Secret").values()
    assert len(secrets) == 6
    for one in secrets:
        assert "secret" in graph.readable(one.inputs["properties"]), f"{one.name} would be clear text in state"
    assert "password-of" not in repr(built.outputs)


def test_an_account_waits_out_the_spread_of_a_role(tmp_path):
    for built in (build_stamp(tmp_path), build(layouts.on_azure(layouts.byok_active()))):
        for account in built.of_type(ACCOUNT).values():
            assert account.on_error == (lag.HOOK,)
            assert lag.HOOK in built.error_hooks


def test_a_key_without_a_version_is_refused_before_anything_is_made():
    layout = layouts.changed(layouts.on_azure(layouts.byok_active()), keys=(Key(id="k1", state=KeyState.ACTIVE),))
    with pytest.raises(ConfigError, match="k1 of tenant acme holds no version yet"):
        build(layout)


def test_a_provider_that_works_in_another_subscription_than_the_stamps_is_refused(monkeypatch):
    monkeypatch.setitem(azure_graph.STAMP_OUTPUTS, "subscription_id", "another")
    with pytest.raises(ConfigError, match="in the subscription another"):
        build(layouts.on_azure(layouts.standard()))


def _identity(one: Registered) -> dict[str, object]:
    inputs = REPLACED_BY.get(one.type, ())
    return {"type": one.type, "parent": one.parent, **{name: one.inputs.get(name) for name in inputs}}
