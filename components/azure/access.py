"""Who may do what with a tenant's data: the archive, pipeline and runner identities, and what each is given.

Azure knows no denial that we could write: what the gate closes is not in the graph. A right is a role assignment at
one container, secret or queue, so that nothing of another tenant is ever in reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_azure_native as azure

from components import naming
from components.audiences import ARCHIVE, AUDIENCES, PIPELINE, RUNNER
from components.azure import rights
from components.index import SECRET_AUDIENCES
from components.routes import Route

EXCHANGE = "api://AzureADTokenExchange"
READ, WRITE, ANNOTATE, MOVE = "read", "write", "annotate", "move"
PROCESS, SEND_LETTERS, KEEP_QUEUE, KEEP_LETTERS = "process", "send-letters", "keep-queue", "keep-letters"
BLOB_RIGHTS = {READ: rights.READER, WRITE: rights.WRITER, ANNOTATE: rights.ANNOTATOR, MOVE: rights.MOVER}
QUEUE_RIGHTS = {
    PROCESS: rights.QUEUE_PROCESSOR,
    SEND_LETTERS: rights.QUEUE_SENDER,
    KEEP_QUEUE: rights.QUEUE_CONTRIBUTOR,
    KEEP_LETTERS: rights.QUEUE_CONTRIBUTOR,
}
CLOSED_BY_JOBS = frozenset({WRITE, ANNOTATE})
"""What goes while jobs are closed: a freeze waits until it is refused."""


@dataclass(frozen=True, kw_only=True)
class Tenancy:
    """What decides a tenant's rights. Plain data, known before anything is made."""

    tenant: str
    storages: Sequence[str]
    searches: Sequence[str]
    routes: Sequence[Route]
    serving_storage: str | None
    serving_search: str | None
    are_jobs_open: bool
    is_access_open: bool


@dataclass(frozen=True, kw_only=True)
class Grant:
    """`right`: one of the above, or whose secret of a search it is. `unit`: a storage, a search or a pipeline."""

    unit: str
    audience: str
    right: str

    @property
    def logical(self) -> str:
        secret = "-secret" if self.right in SECRET_AUDIENCES else ""
        return f"{self.unit}-{self.audience}-{self.right}{secret}"


def grants(tenancy: Tenancy) -> list[Grant]:
    """Every right of a tenant's identities."""
    given = [*_archive(tenancy), *_pipeline(tenancy)] if tenancy.is_access_open else []
    if not tenancy.are_jobs_open:
        given = [grant for grant in given if grant.right not in CLOSED_BY_JOBS]
    return [*given, *_runner(tenancy)]


def _archive(tenancy: Tenancy) -> list[Grant]:
    """Archive reads and writes what serves."""
    storage, search = tenancy.serving_storage, tenancy.serving_search
    if storage is None or search is None:
        return []
    return [
        Grant(unit=storage, audience=ARCHIVE, right=READ),
        Grant(unit=storage, audience=ARCHIVE, right=WRITE),
        Grant(unit=search, audience=ARCHIVE, right=ARCHIVE),
    ]


def _pipeline(tenancy: Tenancy) -> list[Grant]:
    """The worker reads the storages whose events reach it, takes them from its queues, and writes where it serves."""
    attached = [route for route in tenancy.routes if route.is_attached]
    reads = {route.storage for route in attached}
    annotates = {route.storage for route in attached if route.takes_edits}
    return [
        *(Grant(unit=storage, audience=PIPELINE, right=READ) for storage in sorted(reads)),
        *(Grant(unit=storage, audience=PIPELINE, right=ANNOTATE) for storage in sorted(annotates)),
        *(Grant(unit=search, audience=PIPELINE, right=PIPELINE) for search in sorted({r.search for r in attached})),
        *(
            Grant(unit=r.id, audience=PIPELINE, right=right)
            for r in tenancy.routes
            for right in (PROCESS, SEND_LETTERS)
        ),
    ]


def _runner(tenancy: Tenancy) -> list[Grant]:
    """The runner copies, proves and purges every storage; closing the gate does not stop it."""
    return [
        *(Grant(unit=storage, audience=RUNNER, right=MOVE) for storage in tenancy.storages),
        *(Grant(unit=e, audience=RUNNER, right=secret) for e in tenancy.searches for secret in SECRET_AUDIENCES),
        *(
            Grant(unit=r.id, audience=RUNNER, right=right)
            for r in tenancy.routes
            for right in (KEEP_QUEUE, KEEP_LETTERS)
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class TenantIdentitiesArgs:
    """`issuer` and `subject` name the operator's workload, which acts as each of them by a federated credential."""

    tenant: str
    group: pulumi.Input[str]
    location: str
    issuer: pulumi.Input[str]
    subject: pulumi.Input[str]


class TenantIdentities(pulumi.ComponentResource):
    """Three identities without any secret. They live as long as the tenant; only their rights change."""

    of: Mapping[str, azure.managedidentity.UserAssignedIdentity]

    def __init__(self, name: str, args: TenantIdentitiesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:TenantIdentities", name, None, opts)
        self.of = {audience: self._identity(audience, args) for audience in AUDIENCES}
        self.register_outputs({audience: identity.client_id for audience, identity in self.of.items()})

    def _identity(self, audience: str, args: TenantIdentitiesArgs) -> azure.managedidentity.UserAssignedIdentity:
        identity = azure.managedidentity.UserAssignedIdentity(
            f"{audience}-identity",
            resource_name_=naming.role(args.tenant, audience),
            resource_group_name=args.group,
            location=args.location,
            tags={"keyshift:tenant": args.tenant},
            opts=pulumi.ResourceOptions(parent=self),
        )
        azure.managedidentity.FederatedIdentityCredential(
            f"{audience}-operator",
            federated_identity_credential_resource_name="operator",
            resource_name_=identity.name,
            resource_group_name=args.group,
            issuer=args.issuer,
            subject=args.subject,
            audiences=[EXCHANGE],
            opts=pulumi.ResourceOptions(parent=self, deleted_with=identity),
        )
        return identity


@dataclass(frozen=True, kw_only=True)
class Scopes:
    """Where each unit lies, as resource ids: containers by storage, (queue, dead letters) by pipeline."""

    vault: pulumi.Input[str]
    containers: Mapping[str, pulumi.Input[str]]
    queues: Mapping[str, tuple[pulumi.Input[str], pulumi.Input[str]]]

    def of(self, grant: Grant, tenant: str) -> pulumi.Input[str]:
        if grant.right in SECRET_AUDIENCES:
            secret = naming.vault_secret(tenant, grant.unit, grant.right)
            return pulumi.Output.from_input(self.vault).apply(lambda found: f"{found}/secrets/{secret}")
        if grant.right in BLOB_RIGHTS:
            return self.containers[grant.unit]
        queue, letters = self.queues[grant.unit]
        return letters if grant.right in {SEND_LETTERS, KEEP_LETTERS} else queue


@dataclass(frozen=True, kw_only=True)
class TenantAccessArgs:
    """`works_after`: what has to stand before a right to it can be given, by unit."""

    tenancy: Tenancy
    stamp: str
    subscription: str
    identities: TenantIdentities
    scopes: Scopes
    works_after: Mapping[str, pulumi.Resource]


class TenantAccess(pulumi.ComponentResource):
    """The rights themselves: each stands or falls alone, so that closing the gate replaces nothing."""

    given: Mapping[Grant, pulumi.Resource]

    def __init__(self, name: str, args: TenantAccessArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:azure:TenantAccess", name, None, opts)
        self.given = {grant: self._assignment(grant, args) for grant in grants(args.tenancy)}
        self.register_outputs({})

    def _assignment(self, grant: Grant, args: TenantAccessArgs) -> pulumi.Resource:
        if grant.right in SECRET_AUDIENCES:
            role = rights.SECRETS_USER
        elif grant.right in BLOB_RIGHTS:
            role = rights.blob_role_id(args.stamp, BLOB_RIGHTS[grant.right])
        else:
            role = QUEUE_RIGHTS[grant.right]
        return rights.assign(
            grant.logical,
            owner=args.tenancy.tenant,
            role=rights.definition(args.subscription, role),
            principal_id=args.identities.of[grant.audience].principal_id,
            scope=args.scopes.of(grant, args.tenancy.tenant),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args.works_after[grant.unit]]),
        )
