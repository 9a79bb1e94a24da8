"""A stamp, and a tenant's layout, into resources of Azure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_azure_native as azure
import pulumi_azuread as azuread

from components import naming
from components.audiences import AUDIENCES, PIPELINE
from components.azure import rights
from components.azure.access import (
    EXCHANGE,
    Scopes,
    Tenancy,
    TenantAccess,
    TenantAccessArgs,
    TenantIdentities,
    TenantIdentitiesArgs,
)
from components.azure.key import VENDOR_KEY, StampVault, StampVaultArgs, WrappingKey, WrappingKeyArgs, let_wrap
from components.azure.lag import RoleLag
from components.azure.pipeline import Pipeline, PipelineArgs, PipelineQueues, Queues, QueuesArgs, Source
from components.azure.secret import keeper
from components.azure.storage import CURRENT, Account, AccountArgs, AccountKey, Container, ContainerArgs
from components.index import SECRET_AUDIENCES
from components.retention import Retention
from components.search import SearchDeployment, SearchDeploymentArgs
from components.vault import VaultKey
from stacks.config import AzureStamp, StampSettings
from stacks.errors import ConfigError
from stacks.layout import Key, Layout, Search, Storage, StorageKind
from stacks.layout import Pipeline as PipelineUnit
from stacks.units import HOLDS_MATERIAL, INDEX_OUTPUT, labels, pipeline_state, routes, takes_edits

ENCRYPTION = "encryption"
PUBLIC_ISSUER = "https://login.microsoftonline.com/{directory}/v2.0"
PLAN_SKU = "P0v3"
ACCOUNT_PARTS = ("id", "name", "endpoint", "queue_endpoint", "topic", "topic_principal")


# the stamp ------------------------------------------------------------------------------------


def build_stamp(settings: StampSettings, retention: Retention) -> dict[str, Any]:
    """Registers the stamp's resources; returns the stack's outputs. Raises ConfigError where it cannot stand."""
    if settings.azure is None:
        raise ConfigError(f"{settings.name} was read without its configuration", hint=f"pulumi up -s {settings.name}")
    said, client = settings.azure, azure.authorization.get_client_config()
    whose = {"stamp": settings.name}
    group = _group(settings.name, settings.region, whose, protect=True)
    vault = StampVault(
        "keys",
        StampVaultArgs(
            stamp=settings.name,
            subscription=client.subscription_id,
            directory=client.tenant_id,
            location=settings.region,
            group=group.name,
            prefix=said.vault_prefix,
            operator=said.operator_principal,
            labels=whose,
            retention=retention,
        ),
    )
    roles = Roles("roles", settings.name, client.subscription_id)
    encryption = azure.managedidentity.UserAssignedIdentity(
        "encryption-identity",
        resource_name_=f"keyshift-{settings.name}-{ENCRYPTION}",
        resource_group_name=group.name,
        location=settings.region,
        tags=naming.tags(whose),
        opts=pulumi.ResourceOptions(protect=True),
    )
    wraps = let_wrap(
        "encryption-wraps",
        owner=settings.name,
        subscription=client.subscription_id,
        vault_id=vault.id,
        key_name=VENDOR_KEY,
        principal_id=encryption.principal_id,
        opts=pulumi.ResourceOptions(depends_on=[vault]),
    )
    shared = Account(
        "shared",
        AccountArgs(
            id="shared",
            account=naming.shared_account(stamp=settings.name, subscription=client.subscription_id),
            account_id=_account_id(
                naming.shared_account(stamp=settings.name, subscription=client.subscription_id),
                stack=settings.name,
                subscription=client.subscription_id,
            ),
            group=group.name,
            location=settings.region,
            key=AccountKey(vault_uri=vault.uri, name=VENDOR_KEY, version=CURRENT, identity=encryption.id),
            labels=whose,
            retention=retention,
            role_lag=RoleLag(),
            works_after=[wraps],
        ),
    )
    plan = _plan(settings, group, whose)
    client_id = _application(settings, said, directory=client.tenant_id, identity=encryption)
    return {
        "account": shared.name,
        "account_topic": shared.topic,
        "account_topic_principal": shared.topic_principal,
        "account_resource_id": shared.id,
        "endpoint": shared.endpoint,
        "queue_endpoint": shared.queue_endpoint,
        "resource_group": group.name,
        "location": settings.region,
        "account_id": client.subscription_id,
        "subscription_id": client.subscription_id,
        "entra_tenant_id": client.tenant_id,
        "vault": vault.name,
        "vault_uri": vault.uri,
        "vault_id": vault.id,
        "vendor_key_uri": vault.vendor_key_uri,
        "encryption_identity_id": encryption.id,
        "app_client_id": client_id,
        "plan_id": plan.id,
        "roles": roles.ids,
        "worker_image": said.worker_image,
        "operator_principal": said.operator_principal,
        "operator_issuer": said.operator_issuer,
        "operator_subject": said.operator_subject,
    }


class Roles(pulumi.ComponentResource):
    """The roles for blobs that the stamp's tenants share."""

    ids: Mapping[str, str]

    def __init__(self, name: str, stamp: str, subscription: str) -> None:
        super().__init__("keyshift:azure:Roles", name)
        rights.define_blob_roles(stamp, subscription=subscription, parent=self)
        self.ids = {role.name: rights.blob_role_id(stamp, role.name) for role in rights.BLOB_ROLES}
        self.register_outputs({"ids": self.ids})


def _group(stack: str, location: str, whose: Mapping[str, str], *, protect: bool) -> azure.resources.ResourceGroup:
    return azure.resources.ResourceGroup(
        "group",
        resource_group_name=naming.resource_group(stack),
        location=location,
        tags=naming.tags(whose),
        opts=pulumi.ResourceOptions(protect=protect),
    )


def _plan(
    settings: StampSettings, group: azure.resources.ResourceGroup, whose: Mapping[str, str]
) -> azure.web.AppServicePlan:
    return azure.web.AppServicePlan(
        "plan",
        name=f"keyshift-{settings.name}",
        resource_group_name=group.name,
        location=settings.region,
        kind="linux",
        reserved=True,
        sku=azure.web.SkuDescriptionArgs(name=PLAN_SKU),
        tags=naming.tags(whose),
    )


def _application(
    settings: StampSettings,
    said: AzureStamp,
    *,
    directory: str,
    identity: azure.managedidentity.UserAssignedIdentity,
) -> pulumi.Output[str]:
    """The application that a customer installs in their directory; the stamp's identity acts as it, by no secret."""
    application = azuread.ApplicationRegistration(
        "application",
        display_name=f"Keyshift {settings.name}",
        sign_in_audience="AzureADMultipleOrgs",
        opts=pulumi.ResourceOptions(protect=True),
    )
    azuread.ApplicationFederatedIdentityCredential(
        "application-identity",
        application_id=application.id,
        display_name=f"keyshift-{ENCRYPTION}",
        issuer=said.entra_issuer or PUBLIC_ISSUER.format(directory=directory),
        subject=identity.principal_id,
        audiences=[EXCHANGE],
        opts=pulumi.ResourceOptions(protect=True),
    )
    return application.client_id


# a tenant -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a tenant stands on: its stamp's outputs, its group and identities, and what waits for roles."""

    layout: Layout
    subscription: str
    stamp: pulumi.StackReference
    group: azure.resources.ResourceGroup
    identities: TenantIdentities
    hooks: pulumi.ResourceHookBinding
    role_lag: RoleLag

    def of_stamp(self, name: str) -> pulumi.Output[str]:
        return self.stamp.require_output(name)

    def retention(self, *, release: str | None) -> Retention:
        return Retention(protect=release is None, hooks=self.hooks)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a storage's blobs lie: the account, its events and the tenant's container in it."""

    account: Mapping[str, pulumi.Input[str]]
    group: pulumi.Input[str]
    container: str
    key_uri: pulumi.Input[str]
    current_key: pulumi.Input[str | None]
    made: Container

    def scope(self) -> pulumi.Output[str]:
        return pulumi.Output.concat(self.account["id"], "/blobServices/default/containers/", self.container)


def build_tenant(layout: Layout, hooks: pulumi.ResourceHookBinding) -> dict[str, Any]:
    """Registers the tenant's resources; returns the stack's outputs. Raises ConfigError where it cannot stand."""
    ground = _ground(layout, hooks)
    keys = {key.id: _wrapping_key(ground, key) for key in layout.keys if key.arn is None}
    customers = _CustomersKey(ground)
    sites = {storage.id: _site(ground, storage, customers) for storage in layout.storages}
    searches = {search.id: _search(ground, search) for search in layout.searches}
    queues = {unit.id: _queues(ground, unit) for unit in layout.pipelines}
    access = _access(ground, sites, searches, queues)
    pipelines = {
        unit.id: _pipeline(ground, unit, sites[unit.storage], searches[unit.search], queues[unit.id], access)
        for unit in layout.pipelines
    }
    return {
        # What the policies judge the resources by, and all that they know of the tenant.
        "layout": layout.model_dump(mode="json"),
        "keys": {id: _key_output(ground, key) for id, key in keys.items()},
        "storages": {storage.id: _storage_output(storage, sites[storage.id]) for storage in layout.storages},
        "searches": {unit.id: _search_output(ground, unit, searches[unit.id]) for unit in layout.searches},
        "pipelines": {
            unit.id: _pipeline_output(ground, queues[unit.id], pipelines[unit.id]) for unit in layout.pipelines
        },
        "roles": {audience: _role_output(ground, audience) for audience in AUDIENCES},
        # Whoever acts for a tenant asks its stack alone.
        "stamp": {
            name: ground.of_stamp(name)
            for name in ("vault_uri", "app_client_id", "entra_tenant_id", "subscription_id", "vendor_key_uri")
        },
    }


def _ground(layout: Layout, hooks: pulumi.ResourceHookBinding) -> Ground:
    stamp = pulumi.StackReference(f"{pulumi.get_organization()}/{pulumi.get_project()}/{layout.stamp}")
    subscription = azure.authorization.get_client_config().subscription_id
    group = azure.resources.ResourceGroup(
        "group",
        resource_group_name=stamp.require_output("subscription_id").apply(
            lambda stamps: _in_its_subscription(layout, subscription, stamps)
        ),
        location=layout.region,
        tags=naming.tags({"tenant": layout.tenant, "customer": layout.customer}),
    )
    identities = TenantIdentities(
        "identities",
        TenantIdentitiesArgs(
            tenant=layout.tenant,
            group=group.name,
            location=layout.region,
            issuer=stamp.require_output("operator_issuer"),
            subject=stamp.require_output("operator_subject"),
        ),
    )
    return Ground(
        layout=layout,
        subscription=subscription,
        stamp=stamp,
        group=group,
        identities=identities,
        hooks=hooks,
        role_lag=RoleLag(),
    )


def _in_its_subscription(layout: Layout, subscription: str, stamps: str) -> str:
    """The name of the tenant's group. Raises ConfigError when the caller works in another subscription than its stamp."""
    if subscription != stamps:
        raise ConfigError(
            f"tenant {layout.tenant} sits on {layout.stamp} in the subscription {stamps}, but the Azure provider works "
            f"in {subscription}",
            hint=f"set ARM_SUBSCRIPTION_ID={stamps}",
        )
    return naming.resource_group(naming.tenant_stack(layout.tenant))


def _wrapping_key(ground: Ground, key: Key) -> WrappingKey:
    layout = ground.layout
    return WrappingKey(
        key.id,
        WrappingKeyArgs(
            id=key.id,
            tenant=layout.tenant,
            vault=ground.of_stamp("vault"),
            group=ground.of_stamp("resource_group"),
            labels=labels(layout, key.id, key.id),
            # A key outlives what lies under it: only the end of its tenant releases one.
            retention=ground.retention(release=key.release),
        ),
    )


class _CustomersKey:
    """Who unwraps with the customer's key: an identity of the tenant's own for one of ours, made once there is any."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._identity: azure.managedidentity.UserAssignedIdentity | None = None
        self.works_after: list[pulumi.Resource] = []
        layout = ground.layout
        if not any(key.arn is None for key in layout.keys):
            return
        self._identity = azure.managedidentity.UserAssignedIdentity(
            "key-identity",
            resource_name_=naming.role(layout.tenant, "key"),
            resource_group_name=ground.group.name,
            location=layout.region,
            tags={"keyshift:tenant": layout.tenant},
        )
        # The key is there once a first upload is in; Azure assigns no role for what does not exist.
        if any(key.arn is None and key.state in HOLDS_MATERIAL for key in layout.keys):
            wraps = let_wrap(
                "key-wraps",
                owner=layout.tenant,
                subscription=ground.subscription,
                vault_id=ground.of_stamp("vault_id"),
                key_name=naming.vault_key(layout.tenant),
                principal_id=self._identity.principal_id,
                opts=pulumi.ResourceOptions(),
            )
            self.works_after.append(wraps)

    def of(self, key: Key) -> AccountKey:
        ground = self._ground
        if key.arn is not None:
            theirs = VaultKey.parse(key.arn)
            return AccountKey(
                vault_uri=theirs.vault_uri,
                name=theirs.name,
                version=CURRENT,
                identity=ground.of_stamp("encryption_identity_id"),
                client_id=ground.of_stamp("app_client_id"),
            )
        if self._identity is None or key.material is None:
            raise ConfigError(
                f"{key.id} of tenant {ground.layout.tenant} holds no version yet that a storage could be put under",
                hint=f"keyshift key list {ground.layout.tenant}",
            )
        return AccountKey(
            vault_uri=ground.of_stamp("vault_uri"),
            name=naming.vault_key(ground.layout.tenant),
            version=key.material,
            identity=self._identity.id,
        )


def _site(ground: Ground, storage: Storage, customers: _CustomersKey) -> Site:
    return _shared(ground, storage) if storage.kind is StorageKind.SHARED else _dedicated(ground, storage, customers)


def _shared(ground: Ground, storage: Storage) -> Site:
    container = naming.container(ground.layout.tenant, storage.id)
    made = Container(
        storage.id,
        ContainerArgs(
            id=storage.id,
            container=container,
            account=ground.of_stamp("account"),
            group=ground.of_stamp("resource_group"),
            retention=ground.retention(release=storage.release),
        ),
    )
    return Site(
        account={
            "id": ground.of_stamp("account_resource_id"),
            "name": ground.of_stamp("account"),
            "endpoint": ground.of_stamp("endpoint"),
            "topic": ground.of_stamp("account_topic"),
            "topic_principal": ground.of_stamp("account_topic_principal"),
        },
        group=ground.of_stamp("resource_group"),
        container=container,
        key_uri=ground.of_stamp("vendor_key_uri"),
        current_key=None,
        made=made,
    )


def _dedicated(ground: Ground, storage: Storage, customers: _CustomersKey) -> Site:
    layout = ground.layout
    if storage.key is None:
        raise ConfigError(f"{storage.id} of tenant {layout.tenant} is dedicated and names no key", hint="a shared one")
    key = layout.key(storage.key)
    account_key = customers.of(key)
    called = naming.dedicated_account(tenant=layout.tenant, storage=storage.id, subscription=ground.subscription)
    retention = ground.retention(release=storage.release)
    account = Account(
        storage.id,
        AccountArgs(
            id=storage.id,
            account=called,
            account_id=_account_id(called, stack=naming.tenant_stack(layout.tenant), subscription=ground.subscription),
            group=ground.group.name,
            location=layout.region,
            key=account_key,
            labels=labels(layout, storage.id, storage.key),
            retention=retention,
            role_lag=ground.role_lag,
            works_after=customers.works_after if key.arn is None else [],
        ),
    )
    container = naming.container(layout.tenant, storage.id)
    made = Container(
        f"{storage.id}-entity",
        ContainerArgs(
            id=storage.id,
            container=container,
            account=account.name,
            group=ground.group.name,
            retention=retention,
            goes_with=account.resource,
        ),
    )
    return Site(
        account={part: getattr(account, part) for part in ACCOUNT_PARTS},
        group=ground.group.name,
        container=container,
        key_uri=pulumi.Output.concat(account_key.vault_uri, "keys/", account_key.name),
        current_key=account.current_key,
        made=made,
    )


def _account_id(account: str, *, stack: str, subscription: str) -> str:
    kind, group = "Microsoft.Storage/storageAccounts", naming.resource_group(stack)
    return naming.resource_id(kind, account, subscription=subscription, group=group)


def _search(ground: Ground, search: Search) -> SearchDeployment:
    layout = ground.layout
    return SearchDeployment(
        search.id,
        SearchDeploymentArgs(
            id=search.id,
            tenant=layout.tenant,
            cloud=str(layout.cloud),
            region=layout.region,
            version=search.version,
            encryption_key_path=None,
            labels=labels(layout, search.id, None),
            retention=ground.retention(release=search.release),
            secret_names={a: naming.vault_secret(layout.tenant, search.id, a) for a in SECRET_AUDIENCES},
            keep_secret=keeper(vault=ground.of_stamp("vault"), group=ground.of_stamp("resource_group")),
        ),
    )


def _queues(ground: Ground, unit: PipelineUnit) -> PipelineQueues:
    return PipelineQueues(
        f"{unit.id}-queues",
        QueuesArgs(
            id=unit.id,
            tenant=ground.layout.tenant,
            queues=_stamps_queues(ground),
            # A layout releases no pipeline beforehand: what stands in its queues is made again from the storage.
            retention=Retention(protect=False, hooks=ground.hooks),
        ),
    )


def _stamps_queues(ground: Ground) -> Queues:
    return Queues(
        account=ground.of_stamp("account"),
        account_id=ground.of_stamp("account_resource_id"),
        group=ground.of_stamp("resource_group"),
        endpoint=ground.of_stamp("queue_endpoint"),
    )


def _access(
    ground: Ground,
    sites: Mapping[str, Site],
    searches: Mapping[str, SearchDeployment],
    queues: Mapping[str, PipelineQueues],
) -> TenantAccess:
    layout = ground.layout
    tenancy = Tenancy(
        tenant=layout.tenant,
        storages=list(sites),
        searches=list(searches),
        routes=routes(layout),
        serving_storage=layout.serves.storage if layout.serves else None,
        serving_search=layout.serves.search if layout.serves else None,
        are_jobs_open=layout.gate.jobs == "open",
        is_access_open=layout.gate.access == "open",
    )
    units: dict[str, pulumi.Resource] = {id: site.made for id, site in sites.items()}
    return TenantAccess(
        "access",
        TenantAccessArgs(
            tenancy=tenancy,
            stamp=layout.stamp,
            subscription=ground.subscription,
            identities=ground.identities,
            scopes=Scopes(
                vault=ground.of_stamp("vault_id"),
                containers={id: site.scope() for id, site in sites.items()},
                queues={id: made.scopes for id, made in queues.items()},
            ),
            works_after={**units, **searches, **queues},
        ),
    )


def _pipeline(  # noqa: PLR0913, PLR0917 - what a pipeline joins
    ground: Ground,
    unit: PipelineUnit,
    site: Site,
    search: SearchDeployment,
    made: PipelineQueues,
    access: TenantAccess,
) -> Pipeline:
    layout, identity = ground.layout, ground.identities.of[PIPELINE]
    return Pipeline(
        unit.id,
        PipelineArgs(
            id=unit.id,
            tenant=layout.tenant,
            subscription=ground.subscription,
            location=layout.region,
            group=ground.group.name,
            plan=ground.of_stamp("plan_id"),
            image=ground.of_stamp("worker_image"),
            source=Source(
                group=site.group,
                topic=site.account["topic"],
                topic_principal=site.account["topic_principal"],
                endpoint=site.account["endpoint"],
                container=site.container,
            ),
            queues=_stamps_queues(ground),
            made=made,
            search=unit.search,
            search_secret=_secret_uri(ground, unit.search, PIPELINE),
            identity=identity.id,
            client_id=identity.client_id,
            state=str(pipeline_state(layout, unit)),
            takes_edits=takes_edits(layout, unit),
            labels=labels(layout, unit.id, layout.storage(unit.storage).key),
            works_after=(access, search),
        ),
    )


def _secret_uri(ground: Ground, search: str, audience: str) -> pulumi.Output[str]:
    name = naming.vault_secret(ground.layout.tenant, search, audience)
    return pulumi.Output.concat(ground.of_stamp("vault_uri"), "secrets/", name)


def _key_output(ground: Ground, key: WrappingKey) -> dict[str, Any]:
    vault_uri, name = ground.of_stamp("vault_uri"), naming.vault_key(ground.layout.tenant)
    return {
        "vault_uri": vault_uri,
        "name": name,
        "key_id": pulumi.Output.concat(vault_uri, "keys/", name),
        "kek_name": key.kek_name,
    }


def _storage_output(storage: Storage, site: Site) -> dict[str, Any]:
    return {
        "kind": str(storage.kind),
        "account": site.account["name"],
        "account_id": site.account["id"],
        "resource_group": site.group,
        "endpoint": site.account["endpoint"],
        "container": site.container,
        "prefix": "",
        "key_uri": site.key_uri,
        "current_key": site.current_key,
    }


def _search_output(ground: Ground, unit: Search, search: SearchDeployment) -> dict[str, Any]:
    return {
        "deployment_id": search.deployment_id,
        "endpoint": search.endpoint,
        "key_arn": None,
        **INDEX_OUTPUT,
        "secrets": {audience: _secret_uri(ground, unit.id, audience) for audience in SECRET_AUDIENCES},
    }


def _pipeline_output(ground: Ground, made: PipelineQueues, pipeline: Pipeline) -> dict[str, Any]:
    return {
        "queue_endpoint": ground.of_stamp("queue_endpoint"),
        "queue": made.queue,
        "dlq": made.dead_letters,
        "function_name": pipeline.function_name,
    }


def _role_output(ground: Ground, audience: str) -> dict[str, Any]:
    identity = ground.identities.of[audience]
    return {"client_id": identity.client_id, "principal_id": identity.principal_id}
