"""What the program asks for, as a whole: every resource, every input, for every shape of a tenant."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace

import graph
import layouts
import pulumi
import pytest
from graph import ACCOUNT, STAMP, Graph, Registered

from components.worker import handler
from migrate import freeze
from migrate.operations import OperationKind, Request
from migrate.plan import plan
from stacks import guard, record, stamp, tenant
from stacks.config import StampSettings
from stacks.errors import ConfigError, GuardError
from stacks.layout import Gate, Key, KeyState, Layout, Pipeline, PipelineState

WRITE = os.environ.get("KEYSHIFT_GOLDEN") == "write"

STATEFUL = {
    "aws:s3/bucket:Bucket",
    "aws:kms/key:Key",
    "aws:kms/externalKey:ExternalKey",
    "ec:index/deployment:Deployment",
    "elasticstack:index/index:Index",
}

# A change of one of these makes the provider replace the resource: the data in it would be gone.
# From the provider schemas; encryptionKeyPath and the rest of a deployment from the provider's source.
REPLACED_BY = {
    "aws:s3/bucket:Bucket": ("bucket", "bucketPrefix", "objectLockEnabled"),
    "aws:kms/key:Key": ("customerMasterKeySpec", "keyUsage", "multiRegion", "xksKeyId"),
    "aws:kms/externalKey:ExternalKey": ("keyMaterialBase64", "keySpec", "keyUsage", "multiRegion"),
    "aws:sqs/queue:Queue": ("name", "fifoQueue"),
    "aws:iam/role:Role": ("name", "path"),
    "aws:lambda/function:Function": ("name", "packageType"),
    "aws:lambda/eventSourceMapping:EventSourceMapping": ("eventSourceArn", "startingPosition"),
    "aws:secretsmanager/secret:Secret": ("name",),
    "ec:index/deployment:Deployment": ("region", "deploymentTemplateId", "encryptionKeyPath", "name"),
    "elasticstack:index/index:Index": ("name", "numberOfShards", "mappings"),
    "elasticstack:index/securityApiKey:SecurityApiKey": ("name", "roleDescriptors", "expiration"),
}


def build(layout: Layout, *, is_preview: bool = False) -> Graph:
    return graph.run(lambda: tenant.build(layout), stack="tenant-acme", is_preview=is_preview)


def build_stamp(tmp_path, *, is_preview: bool = False) -> Graph:
    engine = record.connect(tmp_path)
    return graph.run(lambda: stamp.build(StampSettings.parse(STAMP), engine), stack=STAMP, is_preview=is_preview)


@pytest.mark.parametrize("name", layouts.ALL)
def test_a_tenant_gets_exactly_the_resources_of_its_layout(name):
    graph.check_golden(f"tenant_{name}", build(layouts.ALL[name]()), write=WRITE)


def test_a_stamp_gets_exactly_its_shared_side(tmp_path):
    graph.check_golden("stamp", build_stamp(tmp_path), write=WRITE)


@pytest.mark.parametrize("name", layouts.ALL)
def test_a_preview_asks_for_the_same_resources_as_the_run(name):
    real, preview = build(layouts.ALL[name]()), build(layouts.ALL[name](), is_preview=True)
    assert preview.resources.keys() == real.resources.keys(), (
        "a resource that only one of the two registers makes the plan and the update differ"
    )
    assert {n: (r.type, r.parent, r.protect) for n, r in preview.resources.items()} == {
        n: (r.type, r.parent, r.protect) for n, r in real.resources.items()
    }


def test_a_stamp_previews_as_it_runs(tmp_path):
    assert build_stamp(tmp_path, is_preview=True).resources.keys() == build_stamp(tmp_path).resources.keys()


def test_every_stateful_resource_is_protected_and_asks_for_a_verdict_before_its_delete():
    for name, make in layouts.ALL.items():
        for one in build(make()).resources.values():
            if one.type not in STATEFUL:
                continue
            released = name == "enable_released" and one.name.startswith("e1-")
            assert one.protect is not released, f"{one.name} in {name}"
            assert one.before_delete == (guard.VERDICT_HOOK,), f"{one.name} in {name} could be deleted unasked"


def test_a_queue_asks_for_a_verdict_before_its_delete():
    queues = build(layouts.enable_frozen()).of_type("aws:sqs/queue:Queue")
    assert not queues.pop("watch-s1-queue").protect, "it goes when the new side serves, under no verdict"
    assert sorted(queues) == ["p1-dead-letters", "p1-queue", "p2-dead-letters", "p2-queue"]
    for queue in queues.values():
        assert queue.before_delete == (guard.VERDICT_HOOK,), "events that nobody has worked on would be gone"


def test_what_belongs_to_a_storage_or_a_search_is_protected_until_its_unit_is_released():
    for name, make in layouts.ALL.items():
        built = build(make())
        for one in built.resources.values():
            if one.parent[:1] in {"s", "e"} and one.parent != "":
                released = name == "enable_released" and one.parent == "e1"
                assert one.protect is not released, f"{one.name} in {name}: a destroy by hand would strip a live unit"


def test_the_verdict_hook_is_registered_even_when_nothing_stateful_is_left():
    layout = layouts.changed(layouts.standard(), storages=(), searches=(), pipelines=(), serves=None)
    assert guard.VERDICT_HOOK in build(layout).hooks, (
        "the engine runs the hook that the state names, in the update that no longer holds the resource"
    )


def test_a_delete_passes_only_with_the_verdict_of_its_unit():
    hook = build(layouts.enable_done()).hooks[guard.VERDICT_HOOK]
    hook(_delete_of("e1-deployment"))
    with pytest.raises(GuardError, match="no verdict covers s2"):
        hook(_delete_of("s2-bucket"))


def test_a_stamp_cannot_be_deleted_while_a_tenant_sits_on_it(tmp_path):
    hook = build_stamp(tmp_path).hooks[guard.STAMP_HOOK]
    hook(_delete_of("shared-bucket"))
    record.insert(record.connect(tmp_path), layouts.standard())
    with pytest.raises(GuardError, match="1 tenants sit on it: acme"):
        hook(_delete_of("shared-bucket"))


def test_no_change_of_gate_or_state_replaces_anything():
    life = [layouts.enable_frozen(), layouts.enable_served(), layouts.enable_released(), layouts.enable_done()]
    life.append(layouts.sealed(layouts.enable_done()))
    graphs = [build(layout) for layout in life]
    for earlier, later in itertools.pairwise(graphs):
        for name in earlier.resources.keys() & later.resources.keys():
            assert _identity(earlier.resources[name]) == _identity(later.resources[name]), f"{name} would be replaced"


def test_a_rotation_changes_the_buckets_default_key_and_not_the_bucket():
    before, after = build(layouts.byok_active()), build(layouts.rotation())
    was, now = before.resources["s1-bucket"], after.resources["s1-bucket"]
    assert was.inputs["tags"] | {"keyshift:key": "k2"} == now.inputs["tags"], "the one thing that says the new key"
    assert replace(was, inputs={**was.inputs, "tags": {}}) == replace(now, inputs={**now.inputs, "tags": {}})
    rules = [g.resources["s1-bucket-encryption"].inputs["rules"][0] for g in (before, after)]
    ids = [rule["applyServerSideEncryptionByDefault"]["kmsMasterKeyId"].rpartition("/")[2] for rule in rules]
    assert ids == ["k1-key", "k2-key"]


def test_in_a_rotation_each_of_two_pipelines_has_its_own_way_from_the_one_bucket():
    built = build(layouts.rotation())
    assert {"p1-rule", "p2-rule"} <= built.resources.keys()
    assert "queues" not in built.resources["s1-bucket-events"].inputs, (
        "a bucket's own notifications refuse two queues for one event: the second would get nothing"
    )


def test_an_upgraded_search_is_another_deployment_beside_the_old_one():
    start = layouts.byok_active()
    asked = Request(
        operation="acme-upgrade-1", kind=OperationKind.UPGRADE, search_version="8.19.3", cutoff=layouts.CUTOFF
    )
    before, after = build(start), build(plan(asked, start).phases[0].layout)
    was, stays, comes = (
        before.resources["e1-deployment"],
        after.resources["e1-deployment"],
        after.resources["e2-deployment"],
    )
    assert was == stays, "a change of its version would upgrade it in place, with no way back"
    assert (was.inputs["version"], comes.inputs["version"]) == ("8.19.0", "8.19.3")
    assert comes.inputs["encryptionKeyPath"] == was.inputs["encryptionKeyPath"]


def test_a_detached_pipeline_stands_but_no_event_reaches_it():
    built = build(layouts.enable_frozen())
    assert {"p2-queue", "p2-worker", "p2-mapping"} <= built.resources.keys()
    assert {"p1-rule", "p1-target"} <= built.resources.keys()
    assert not {"p2-rule", "p2-target"} & built.resources.keys()
    assert built.resources["p2-mapping"].inputs["enabled"] is False


def test_tag_changes_are_heard_of_only_while_a_storage_is_copied():
    watches = {
        name: sorted(one for one in build(make()).resources if one.startswith("watch-"))
        for name, make in layouts.ALL.items()
    }
    parts = ["watch-s1", *(f"watch-s1-{part}" for part in ("queue", "queue-policy", "rule", "target"))]
    assert {name: made for name, made in watches.items() if made} == {"enable_frozen": parts}


def test_the_freeze_trusts_its_hearing_for_less_long_than_the_queue_keeps_what_it_hears():
    kept = build(layouts.enable_frozen()).resources["watch-s1-queue"].inputs["messageRetentionSeconds"]
    assert freeze.HEARD_FOR.total_seconds() < kept


def test_a_paused_pipeline_keeps_events_and_works_on_none():
    layout = layouts.changed(
        layouts.standard(), pipelines=(Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.PAUSED),)
    )
    built = build(layout)
    assert {"p1-rule", "p1-target"} <= built.resources.keys()
    assert built.resources["p1-mapping"].inputs["enabled"] is False


@pytest.mark.parametrize(
    ("state", "enabled"),
    [(KeyState.PENDING, None), (KeyState.ACTIVE, True), (KeyState.ARCHIVED, True), (KeyState.REVOKED, False)],
)
def test_an_imported_key_is_enabled_as_its_state_says_and_never_holds_material(state, enabled):
    key = build(layouts.changed(layouts.byok_pending(), keys=(Key(id="k1", state=state),))).resources["k1-key"]
    assert key.inputs.get("enabled") == enabled
    assert "keyMaterialBase64" not in key.inputs, "the customer's key must not come into the state"


def test_closed_access_denies_in_every_policy_disables_the_key_and_lets_events_wait():
    opened = layouts.byok_active()
    shut = layouts.changed(opened, gate=Gate(access="closed"))
    before, after = build(opened), build(shut)
    changed = {name for name in before.resources if before.resources[name] != after.resources[name]}
    assert changed - {"p1-worker"} == {  # whose code is an asset, and an asset equals nothing
        "archive-role-policy",
        "k1-key",
        "p1-mapping",
        "pipeline-role-policy",
        "s1-bucket-policy",
    }, "what the seal denies by direct calls, except the rights of the search's credentials"
    assert after.resources["k1-key"].inputs["enabled"] is False
    assert after.resources["p1-mapping"].inputs["enabled"] is False
    assert {"p1-rule", "p1-target"} <= after.resources.keys(), "no event is lost"


def test_credentials_reach_secrets_manager_only_as_pulumi_secrets():
    built = build(layouts.enable_frozen())
    versions = built.of_type("aws:secretsmanager/secretVersion:SecretVersion").values()
    assert len(versions) == 6
    for version in versions:
        assert "secret" in graph.readable(version.inputs["secretString"]), (
            f"{version.name} would be clear text in state"
        )
    assert "password-of" not in repr(built.outputs)


def test_a_byokms_tenant_uses_the_customers_key_and_makes_none():
    built = build(layouts.byokms_active())
    assert not built.of_type("aws:kms/externalKey:ExternalKey")
    assert built.outputs["keys"] == {}
    assert built.outputs["storages"]["s1"]["key_arn"] == layouts.CUSTOMER_KEY
    assert built.resources["e1-deployment"].inputs["encryptionKeyPath"] == layouts.CUSTOMER_KEY


def test_a_provider_that_works_in_another_region_is_refused():
    with pytest.raises(ConfigError, match="belongs in eu-west-1, but the AWS provider works in us-east-1"):
        graph.run(lambda: tenant.build(layouts.standard()), stack="tenant-acme", region="us-east-1")


def test_a_provider_that_works_in_another_account_than_the_stamps_is_refused(monkeypatch):
    monkeypatch.setitem(graph.STAMP_OUTPUTS, "account_id", "444455556666")
    with pytest.raises(ConfigError, match="in account 444455556666, but the AWS provider works in 111122223333"):
        build(layouts.standard())


def test_the_worker_is_packed_from_its_sources_alone():
    code = build(layouts.standard()).resources["p1-worker"].inputs["code"]
    assert sorted(code.assets) == [
        "worker/__init__.py",
        "worker/annotations.py",
        "worker/core.py",
        "worker/document.py",
        "worker/edits.py",
        "worker/edits_index.py",
        "worker/elastic.py",
        "worker/handler.py",
    ], "a compiled file would change the archive from machine to machine"


@pytest.mark.parametrize(
    ("name", "ticking"),
    [("standard", {"p1"}), ("enable_frozen", set()), ("enable_served", {"p2"}), ("byok_active", {"p1"})],
)
def test_only_the_pipeline_that_serves_looks_for_edits_and_none_does_while_jobs_are_closed(name, ticking):
    built = build(layouts.ALL[name]())
    rules = {n: r for n, r in built.of_type("aws:cloudwatch/eventRule:EventRule").items() if n.endswith("-ticks")}
    assert rules, "the schedule would be seen"
    assert {n.removesuffix("-ticks") for n, r in rules.items() if r.inputs["state"] == "ENABLED"} == ticking


def test_the_worker_knows_the_ticks_that_the_schedule_sends():
    target = build(layouts.standard()).resources["p1-ticks-target"].inputs
    assert handler.is_tick(target["input"])


def _delete_of(name: str) -> pulumi.ResourceHookArgs:
    return pulumi.ResourceHookArgs(
        urn=f"urn:pulumi:tenant-acme::keyshift::any::{name}", id=ACCOUNT, name=name, type="any"
    )


def _identity(one: Registered) -> dict[str, object]:
    inputs = REPLACED_BY.get(one.type, ())
    return {"type": one.type, "parent": one.parent, **{name: one.inputs.get(name) for name in inputs}}
