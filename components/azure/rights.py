"""What a role may do, and how one is assigned: narrow roles of our own for blobs, Azure's own for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_azure_native as azure

from components import naming

# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
KEY_ENCRYPTION_USER = "e147488a-f6f5-4113-8e2d-b22465e65bf6"
KEY_OFFICER = "14b46e9e-c2b7-41b4-b07b-48a6ebf60603"
SECRETS_OFFICER = "b86a8fe4-44ce-4948-aee5-eccb2c155cd7"
SECRETS_USER = "4633458b-17de-408a-b874-0445c86b69e6"
QUEUE_CONTRIBUTOR = "974c5e8b-45b9-4653-ba55-5f855dd0fad8"
QUEUE_PROCESSOR = "8a0f0c08-91a1-4084-bc3d-661d67233fed"
QUEUE_SENDER = "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a"

_CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
# Storage Blob Data Contributor may delete whole containers, and knows nothing of tags.
READ_BLOBS = (f"{_CONTAINERS}/blobs/read", f"{_CONTAINERS}/blobs/tags/read")
ANNOTATE_BLOBS = (f"{_CONTAINERS}/blobs/tags/write", f"{_CONTAINERS}/blobs/write")
WRITE_BLOBS = (f"{_CONTAINERS}/blobs/add/action", f"{_CONTAINERS}/blobs/delete", *ANNOTATE_BLOBS)
MOVE_BLOBS = (*READ_BLOBS, *WRITE_BLOBS, f"{_CONTAINERS}/blobs/permanentDelete/action")


@dataclass(frozen=True, kw_only=True)
class BlobRole:
    """A role of ours. `actions` are Azure Resource Manager's, `data_actions` the storage's own."""

    name: str
    description: str
    data_actions: Sequence[str]
    actions: Sequence[str] = field(default=())


READER, WRITER, ANNOTATOR, MOVER = "reader", "writer", "annotator", "mover"
BLOB_ROLES = (
    BlobRole(name=READER, description="reads blobs and their tags", data_actions=READ_BLOBS),
    BlobRole(name=WRITER, description="writes and deletes blobs, with their tags", data_actions=WRITE_BLOBS),
    BlobRole(name=ANNOTATOR, description="rewrites blobs and their tags, deletes none", data_actions=ANNOTATE_BLOBS),
    # A container's own properties say whether it is under a legal hold.
    BlobRole(
        name=MOVER,
        description="copies, proves and purges blobs",
        data_actions=MOVE_BLOBS,
        actions=(f"{_CONTAINERS}/read",),
    ),
)


def blob_role_id(stamp: str, role: str) -> str:
    return naming.assignment(stamp, "blobs", role)


def definition(subscription: str, role_id: str) -> str:
    """The resource id of a role definition, ours or Azure's."""
    return f"/subscriptions/{subscription}/providers/Microsoft.Authorization/roleDefinitions/{role_id}"


def define_blob_roles(stamp: str, *, subscription: str, parent: pulumi.Resource) -> list[pulumi.Resource]:
    """The roles that a stamp's tenants share."""
    scope = f"/subscriptions/{subscription}"
    return [
        azure.authorization.RoleDefinition(
            f"role-{role.name}",
            role_definition_id=blob_role_id(stamp, role.name),
            role_name=f"keyshift-{stamp}-{role.name}",
            description=f"Keyshift {stamp}: {role.description}",
            role_type="CustomRole",
            scope=scope,
            assignable_scopes=[scope],
            permissions=[
                azure.authorization.PermissionArgs(
                    actions=sorted(role.actions),
                    data_actions=sorted(role.data_actions),
                    not_actions=[],
                    not_data_actions=[],
                )
            ],
            opts=pulumi.ResourceOptions(parent=parent),
        )
        for role in BLOB_ROLES
    ]


def assign(  # noqa: PLR0913 - who may do what with what, all by name
    logical: str,
    *,
    owner: str,
    role: str,
    principal_id: pulumi.Input[str],
    scope: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> azure.authorization.RoleAssignment:
    """Gives `principal_id` the role of that definition id at `scope`. `owner`: the stack's tenant or stamp."""
    return azure.authorization.RoleAssignment(
        logical,
        role_assignment_name=naming.assignment(owner, logical),
        role_definition_id=role,
        principal_id=principal_id,
        # Else the assignment is refused (PrincipalNotFound) until Entra has spread an identity made a moment ago.
        principal_type="ServicePrincipal",
        scope=scope,
        opts=opts,
    )
