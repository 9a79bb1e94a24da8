"""azuread: ApplicationRegistration, ApplicationFederatedIdentityCredential."""

from __future__ import annotations

from sandbox.provider.kinds import Kind, Properties, Resource
from sandbox.provider.types.azure import Document, given, told

_APPLICATION = {"displayName": "displayName", "notes": "notes", "signInAudience": "signInAudience"}
_CREDENTIAL = {
    "audiences": "audiences",
    "description": "description",
    "displayName": "name",
    "issuer": "issuer",
    "subject": "subject",
}
_UNSUPPORTED = frozenset(
    [
        "description",
        "groupMembershipClaims",
        "homepageUrl",
        "implicitAccessTokenIssuanceEnabled",
        "implicitIdTokenIssuanceEnabled",
        "logoutUrl",
        "marketingUrl",
        "privacyStatementUrl",
        "requestedAccessTokenVersion",
        "serviceManagementReference",
        "supportUrl",
        "termsOfServiceUrl",
    ]
)
_PREFIX = "/applications/"


def _create(resource: Resource) -> str:
    made: Document = resource.clouds.azure.graph("POST", "/applications", given(resource.inputs, _APPLICATION))
    return f"{_PREFIX}{made['id']}"


def _read(resource: Resource) -> Properties:
    found: Document = resource.clouds.azure.graph("GET", resource.id)
    return {
        **told(found, _APPLICATION),
        "clientId": found["appId"],
        "objectId": found["id"],
    }


def _update(resource: Resource) -> None:
    resource.clouds.azure.graph("PATCH", resource.id, given(resource.inputs, _APPLICATION))


def _delete(resource: Resource) -> None:
    resource.clouds.azure.graph("DELETE", resource.id)


def _credentials(resource: Resource) -> str:
    return f"{resource.inputs['applicationId']}/federatedIdentityCredentials"


def _create_credential(resource: Resource) -> str:
    made: Document = resource.clouds.azure.graph("POST", _credentials(resource), given(resource.inputs, _CREDENTIAL))
    application = resource.inputs["applicationId"].removeprefix(_PREFIX)
    return f"{application}/federatedIdentityCredential/{made['id']}"


def _credential(resource: Resource) -> str:
    application, _, credential = resource.id.split("/")
    return f"{_PREFIX}{application}/federatedIdentityCredentials/{credential}"


def _read_credential(resource: Resource) -> Properties:
    found: Document = resource.clouds.azure.graph("GET", _credential(resource))
    return {
        **told(found, _CREDENTIAL),
        "applicationId": f"{_PREFIX}{resource.id.split('/')[0]}",
        "credentialId": found["id"],
    }


def _update_credential(resource: Resource) -> None:
    resource.clouds.azure.graph("PATCH", _credential(resource), given(resource.inputs, _CREDENTIAL))


def _delete_credential(resource: Resource) -> None:
    resource.clouds.azure.graph("DELETE", _credential(resource))


KINDS = {
    "ApplicationRegistration": Kind(
        create=_create,
        read=_read,
        update=_update,
        delete=_delete,
        defaults={"signInAudience": "AzureADMyOrg"},
        unsupported=_UNSUPPORTED,
        absent=frozenset({"disabledByMicrosoft", "publisherDomain"}),
    ),
    "ApplicationFederatedIdentityCredential": Kind(
        create=_create_credential,
        read=_read_credential,
        update=_update_credential,
        delete=_delete_credential,
        force_new=frozenset({"applicationId", "displayName"}),
    ),
}
