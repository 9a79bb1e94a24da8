"""A stamp, and a tenant's layout, into resources of AWS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components import naming
from components.audiences import AUDIENCES, RUNNER
from components.aws.access import Place, Tenancy, TenantRoles, TenantRolesArgs
from components.aws.key import ImportedKey, ImportedKeyArgs, VendorKey, VendorKeyArgs
from components.aws.pipeline import Pipeline, PipelineArgs
from components.aws.secret import keep_secret
from components.aws.storage import DedicatedBucket, DedicatedBucketArgs, SharedBucket, SharedBucketArgs
from components.aws.watch import TagWatch, TagWatchArgs
from components.index import SECRET_AUDIENCES
from components.retention import Retention
from components.search import SearchDeployment, SearchDeploymentArgs
from stacks.config import StampSettings
from stacks.errors import ConfigError
from stacks.layout import Key, KeyState, Layout, Search, Storage, StorageKind
from stacks.layout import Pipeline as PipelineUnit
from stacks.units import INDEX_OUTPUT, is_serving, labels, pipeline_state, routes, takes_edits

EVENT_BUS = "default"
"""S3 sends its events to the account's default bus and to no other."""
# None leaves it to KMS: a key without material can neither be enabled nor be called disabled.
ENABLED = {KeyState.PENDING: None, KeyState.ACTIVE: True, KeyState.ARCHIVED: True, KeyState.REVOKED: False}


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a tenant stands on: its account and the stamp's bucket and key."""

    layout: Layout
    account: str
    shared_bucket: pulumi.Output[str]
    vendor_key_arn: pulumi.Output[str]
    vendor_key_arns: pulumi.Output[list[str]]
    hooks: pulumi.ResourceHookBinding

    def retention(self, *, release: str | None) -> Retention:
        return Retention(protect=release is None, hooks=self.hooks)

    def role_arn(self, audience: str) -> str:
        return naming.arn("iam", f"role/{naming.role(self.layout.tenant, audience)}", account=self.account)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a storage's objects lie and under which keys; the stamp or KMS may say so only during the update."""

    bucket: pulumi.Input[str]
    prefix: str
    key_arn: pulumi.Input[str]
    key_arns: pulumi.Input[Sequence[pulumi.Input[str]]]

    def place(self) -> pulumi.Output[Place]:
        return pulumi.Output.all(self.bucket, self.key_arn, self.key_arns).apply(
            lambda found: Place(bucket=found[0], prefix=self.prefix, key_arn=found[1], key_arns=found[2])
        )


def build_stamp(settings: StampSettings, retention: Retention) -> dict[str, Any]:
    """Registers the stamp's resources; returns the stack's outputs. Raises ConfigError where it cannot stand."""
    _refuse_foreign_region(settings.name, settings.region)
    account = aws.get_caller_identity().account_id
    keys = {number: _vendor_key(settings, number, account, retention) for number in range(1, settings.vendor_keys + 1)}
    key = keys[settings.vendor_key]
    shared = SharedBucket(
        "shared",
        SharedBucketArgs(
            bucket=naming.shared_bucket(stamp=settings.name, account=account, region=settings.region),
            key_arn=key.arn,
            retention=retention,
        ),
    )
    return {
        "bucket": shared.bucket,
        "bucket_arn": shared.arn,
        "vendor_key_arn": key.arn,
        # Whatever something may lie under, or is about to: the tenants' roles may use these.
        "vendor_key_arns": [keys[number].arn for number in keys if number >= settings.oldest_vendor_key],
        "region": settings.region,
        "account_id": account,
        "event_bus": EVENT_BUS,
    }


def _vendor_key(settings: StampSettings, number: int, account: str, retention: Retention) -> VendorKey:
    """The first one's name has no number: it is a state key of stamps that were made before there was a second."""
    name = "vendor" if number == 1 else f"vendor-{number}"
    return VendorKey(name, VendorKeyArgs(stamp=settings.name, number=number, account=account, retention=retention))


def build_tenant(layout: Layout, hooks: pulumi.ResourceHookBinding) -> dict[str, Any]:
    """Registers the tenant's resources; returns the stack's outputs. Raises ConfigError where it cannot stand."""
    ground = _ground(layout, hooks)
    keys = {key.id: _imported_key(ground, key) for key in layout.keys if key.arn is None}
    key_arns = {key.id: key.arn or keys[key.id].arn for key in layout.keys}
    sites = {storage.id: _site(ground, storage, key_arns) for storage in layout.storages}
    roles = TenantRoles(
        "roles",
        TenantRolesArgs(
            tenant=layout.tenant,
            account=ground.account,
            tenancy=_tenancy(ground, sites),
            probed_keys=pulumi.Output.all(
                ground.vendor_key_arns, *key_arns.values(), *_keys_behind_aliases(layout)
            ).apply(lambda found: [*found[0], *found[1:]]),
        ),
    )
    watches = {storage.id: _watch(ground, storage, sites[storage.id]) for storage in layout.storages if storage.watched}
    searches = {search.id: _search(ground, search, key_arns) for search in layout.searches}
    pipelines = {
        unit.id: _pipeline(ground, unit, sites[unit.storage], roles, searches[unit.search]) for unit in layout.pipelines
    }
    return {
        # What the policies judge the resources by, and all that they know of the tenant.
        "layout": layout.model_dump(mode="json"),
        "keys": {id: {"arn": key.arn, "key_id": key.key_id} for id, key in keys.items()},
        "storages": {storage.id: _storage_output(storage, sites[storage.id], watches) for storage in layout.storages},
        "searches": {unit.id: _search_output(ground, unit, searches[unit.id], key_arns) for unit in layout.searches},
        "pipelines": {id: _pipeline_output(pipeline) for id, pipeline in pipelines.items()},
        "roles": dict(zip(AUDIENCES, (roles.archive_arn, roles.pipeline_arn, roles.runner_arn), strict=True)),
    }


def _refuse_foreign_region(stack: str, region: str) -> None:
    """Raises ConfigError when the AWS provider works in another region than `region`."""
    found = aws.get_region().region
    if found != region:
        raise ConfigError(
            f"{stack} belongs in {region}, but the AWS provider works in {found}", hint=f"set AWS_REGION={region}"
        )


def _ground(layout: Layout, hooks: pulumi.ResourceHookBinding) -> Ground:
    _refuse_foreign_region(f"tenant {layout.tenant}", layout.region)
    stamp = pulumi.StackReference(f"{pulumi.get_organization()}/{pulumi.get_project()}/{layout.stamp}")
    account = aws.get_caller_identity().account_id
    return Ground(
        layout=layout,
        account=account,
        shared_bucket=pulumi.Output.all(stamp.require_output("bucket"), stamp.require_output("account_id")).apply(
            lambda found: _in_its_account(layout, account, bucket=found[0], stamps_account=found[1])
        ),
        vendor_key_arn=stamp.require_output("vendor_key_arn"),
        # A stamp that was last brought up by an earlier release says only the one.
        vendor_key_arns=pulumi.Output.all(
            stamp.get_output("vendor_key_arns"), stamp.require_output("vendor_key_arn")
        ).apply(lambda found: found[0] or [found[1]]),
        hooks=hooks,
    )


def _in_its_account(layout: Layout, account: str, *, bucket: str, stamps_account: str) -> str:
    """The shared bucket. Raises ConfigError when the caller works in another account than the tenant's stamp."""
    if account != stamps_account:
        raise ConfigError(
            f"tenant {layout.tenant} sits on {layout.stamp} in account {stamps_account}, but the AWS provider works in {account}",
            hint="use the credentials of the stamp's account",
        )
    return bucket


def _imported_key(ground: Ground, key: Key) -> ImportedKey:
    layout = ground.layout
    return ImportedKey(
        key.id,
        ImportedKeyArgs(
            id=key.id,
            tenant=layout.tenant,
            account=ground.account,
            region=layout.region,
            enabled=_is_enabled(layout, key),
            labels=labels(layout, key.id, key.id),
            # A key outlives what lies under it: only the end of its tenant releases one.
            retention=ground.retention(release=key.release),
        ),
    )


def _is_enabled(layout: Layout, key: Key) -> bool | None:
    """A key that holds material is disabled while access is closed: what lies under it cannot be read at all."""
    return ENABLED[key.state] and layout.gate.access == "open"


def _site(ground: Ground, storage: Storage, key_arns: Mapping[str, pulumi.Input[str]]) -> Site:
    layout = ground.layout
    if storage.kind is StorageKind.SHARED:
        return Site(
            bucket=ground.shared_bucket,
            prefix=naming.shared_prefix(layout.tenant),
            key_arn=ground.vendor_key_arn,
            key_arns=ground.vendor_key_arns,
        )
    key_arn = _key_arn(ground, storage.key, key_arns)
    bucket = naming.dedicated_bucket(
        tenant=layout.tenant, storage=storage.id, account=ground.account, region=layout.region
    )
    DedicatedBucket(
        storage.id,
        DedicatedBucketArgs(
            id=storage.id,
            bucket=bucket,
            key_arn=key_arn,
            runner_role=ground.role_arn(RUNNER),
            is_writable=is_serving(layout, storage.id) and layout.gate.jobs == "open",
            is_readable=layout.gate.access == "open",
            labels=labels(layout, storage.id, storage.key),
            retention=ground.retention(release=storage.release),
        ),
    )
    # A revoked key opens nothing, and the runner has to read with it as soon as it is given back.
    may_open = {KeyState.ACTIVE, KeyState.REVOKED}
    in_use = [key_arns[key.id] for key in layout.keys if key.state in may_open or key.id == storage.key]
    return Site(bucket=bucket, prefix="", key_arn=key_arn, key_arns=in_use or [key_arn])


def _tenancy(ground: Ground, sites: Mapping[str, Site]) -> pulumi.Output[Tenancy]:
    layout = ground.layout
    ids = list(sites)
    return pulumi.Output.all(*(sites[id].place() for id in ids)).apply(
        lambda places: Tenancy(
            tenant=layout.tenant,
            account=ground.account,
            region=layout.region,
            places=dict(zip(ids, places, strict=True)),
            routes=routes(layout),
            serving_storage=layout.serves.storage if layout.serves else None,
            serving_search=layout.serves.search if layout.serves else None,
            are_jobs_open=layout.gate.jobs == "open",
            is_access_open=layout.gate.access == "open",
            watched=[storage.id for storage in layout.storages if storage.watched],
        )
    )


def _watch(ground: Ground, storage: Storage, site: Site) -> TagWatch:
    layout = ground.layout
    return TagWatch(
        f"watch-{storage.id}",
        TagWatchArgs(
            storage=storage.id,
            tenant=layout.tenant,
            account=ground.account,
            region=layout.region,
            bucket=site.bucket,
            prefix=site.prefix,
        ),
    )


def _search(ground: Ground, search: Search, key_arns: Mapping[str, pulumi.Input[str]]) -> SearchDeployment:
    layout = ground.layout
    return SearchDeployment(
        search.id,
        SearchDeploymentArgs(
            id=search.id,
            tenant=layout.tenant,
            cloud=str(layout.cloud),
            region=layout.region,
            version=search.version,
            encryption_key_path=_key_arn(ground, search.key, key_arns),
            labels=labels(layout, search.id, search.key),
            retention=ground.retention(release=search.release),
            secret_names={a: naming.secret(layout.tenant, search.id, a) for a in SECRET_AUDIENCES},
            keep_secret=keep_secret,
            # The stamp's rotation gives each tenant a new search; until then the old one is under the old key.
            stays_under_its_key=search.key is None,
        ),
    )


def _pipeline(ground: Ground, unit: PipelineUnit, site: Site, roles: TenantRoles, search: SearchDeployment) -> Pipeline:
    layout = ground.layout
    return Pipeline(
        unit.id,
        PipelineArgs(
            id=unit.id,
            tenant=layout.tenant,
            account=ground.account,
            region=layout.region,
            bucket=site.bucket,
            prefix=site.prefix,
            search=unit.search,
            search_secret=naming.secret(layout.tenant, unit.search, "pipeline"),
            role_arn=roles.pipeline_arn,
            state=str(pipeline_state(layout, unit)),
            takes_edits=takes_edits(layout, unit),
            # A layout releases no pipeline beforehand: what stands in its queues is made again from the bucket.
            retention=Retention(protect=False, hooks=ground.hooks),
            works_after=(roles.pipeline_policy, search),
        ),
    )


def _key_arn(ground: Ground, key: str | None, key_arns: Mapping[str, pulumi.Input[str]]) -> pulumi.Input[str]:
    return ground.vendor_key_arn if key is None else key_arns[key]


def _keys_behind_aliases(layout: Layout) -> list[str]:
    """Every key of an account whose alias the customer may move: IAM takes no alias, and the next key is unknown."""
    return [f"{key.arn.rpartition('/')[0]}/*" for key in layout.keys if key.arn is not None]


def _storage_output(storage: Storage, site: Site, watches: Mapping[str, TagWatch]) -> dict[str, Any]:
    place = {"kind": str(storage.kind), "bucket": site.bucket, "prefix": site.prefix, "key_arn": site.key_arn}
    return {**place, "tag_queue_url": watches[storage.id].queue_url} if storage.id in watches else place


def _search_output(
    ground: Ground, unit: Search, search: SearchDeployment, key_arns: Mapping[str, pulumi.Input[str]]
) -> dict[str, Any]:
    return {
        "deployment_id": search.deployment_id,
        "endpoint": search.endpoint,
        "key_arn": search.key_arn if unit.key is None else key_arns[unit.key],
        **INDEX_OUTPUT,
        "secrets": {audience: naming.secret(ground.layout.tenant, unit.id, audience) for audience in SECRET_AUDIENCES},
    }


def _pipeline_output(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "queue_url": pipeline.queue_url,
        "queue_arn": pipeline.queue_arn,
        "dlq_url": pipeline.dlq_url,
        "function_name": pipeline.function_name,
        "mapping_id": pipeline.mapping_id,
    }
