"""Entra: applications, service principals, managed identities, and the tokens that they get.

Kinds in the store: `application` by appId, `principal` by object id, `uami` by resource id, `federation` (of a
managed identity) by resource id.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from sandbox.azure import refusals
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.tokens import Signer, TokenError, unverified
from sandbox.azure.world import GRAPH, MANAGEMENT, STORAGE, SUBSCRIPTIONS, TOKEN_EXCHANGE, World, new_id

LIFE_SECONDS = 3600
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class Caller:
    """Who holds a verified token."""

    principal: str
    app: str
    tenant: str


class Directory:
    """All tenants of the sandbox's Entra."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entra = Signer(world.folder / "entra.pem")
        self._workload = Signer(world.folder / "workload.pem")
        self._entra.ensure()
        self._workload.ensure()

    # What Entra publishes

    def configuration(self, tenant: str) -> dict[str, Any]:
        """The OpenID configuration of a tenant. Raises AzureError."""
        self._tenant(tenant)
        base = f"{self._world.url}/{tenant}"
        return {
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "issuer": self._world.issuer(tenant),
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        }

    def keys(self) -> dict[str, Any]:
        return self._entra.jwks()

    def workload_configuration(self) -> dict[str, Any]:
        issuer = self._world.workload_issuer
        return {"issuer": issuer, "jwks_uri": f"{issuer}/keys", "response_types_supported": ["id_token"]}

    def workload_keys(self) -> dict[str, Any]:
        return self._workload.jwks()

    def workload_token(self, subject: str, life: float) -> str:
        """What a cluster or a CI system would put into a file for the program that runs there."""
        now = int(self._world.now())
        return self._workload.sign(
            {
                "aud": TOKEN_EXCHANGE,
                "iss": self._world.workload_issuer,
                "sub": subject,
                "iat": now,
                "nbf": now,
                "exp": int(now + life),
            }
        )

    # Tokens

    def token(self, tenant: str, form: dict[str, str]) -> dict[str, Any]:
        """The answer of the token endpoint. Raises AzureError."""
        self._tenant(tenant)
        if form.get("grant_type") != "client_credentials":
            raise refusals.BAD_GRANT.error(grant=form.get("grant_type", ""))
        app = form.get("client_id", "").lower()
        principal = self._principal_of(app, tenant)
        if form.get("client_assertion_type") == _ASSERTION:
            self._check_assertion(app, form.get("client_assertion", ""))
        else:
            self._check_secret(app, form.get("client_secret", ""))
        audience = self._audience(form.get("scope", ""), tenant)
        return {
            "access_token": self.issue(principal, audience),
            "expires_in": LIFE_SECONDS,
            "ext_expires_in": LIFE_SECONDS,
            "token_type": "Bearer",
        }

    def issue(self, principal: Document, audience: str) -> str:
        """A token of a service principal for one audience."""
        now = int(self._world.now())
        claims = {
            "appid": principal["appId"],
            "aud": audience,
            "azp": principal["appId"],
            "exp": now + LIFE_SECONDS,
            "iat": now,
            "idtyp": "app",
            "iss": self._world.issuer(principal["tenant"]),
            "nbf": now,
            "oid": principal["id"],
            "sub": principal["id"],
            "tid": principal["tenant"],
            "ver": "2.0",
        }
        if principal.get("resource"):
            claims["xms_mirid"] = principal["resource"]
        return self._entra.sign(claims)

    def managed_identity_token(self, client_id: str, resource: str) -> dict[str, Any]:
        """What the identity endpoint of a function app answers. Raises AzureError."""
        tenant = next(iter(SUBSCRIPTIONS.values()))
        principal = self._principal_of(client_id.lower(), tenant)
        now = int(self._world.now())
        return {
            "access_token": self.issue(principal, self._audience(f"{resource.rstrip('/')}/.default", tenant)),
            "client_id": client_id,
            "expires_on": str(now + LIFE_SECONDS),
            "resource": resource,
            "token_type": "Bearer",
        }

    def caller(self, token: str, audiences: tuple[str, ...]) -> Caller:
        """Who holds this token, if Entra signed it for one of `audiences`. Raises TokenError."""
        claims = self._entra.verify(token)
        if claims["aud"].rstrip("/") not in audiences:
            raise TokenError(f"it is for {claims['aud']}")
        if claims["iss"] != self._world.issuer(claims["tid"]):
            raise TokenError(f"its issuer is {claims['iss']}")
        if self._world.store.get("principal", claims["oid"]) is None:
            raise TokenError("its principal does not exist any more")
        return Caller(claims["oid"], claims["appid"], claims["tid"])

    def exchanged(self, identity: Document, app: str, tenant: str) -> Document:
        """The principal, in `tenant`, of an application that federates a managed identity. Raises AzureError."""
        assertion = self.issue(identity, TOKEN_EXCHANGE)
        principal = self._principal_of(app.lower(), tenant)
        self._check_assertion(app.lower(), assertion)
        return principal

    def _tenant(self, tenant: str) -> None:
        if tenant.lower() not in SUBSCRIPTIONS.values():
            raise refusals.NO_TENANT.error(tenant=tenant)

    def _principal_of(self, app: str, tenant: str) -> Document:
        for _, principal in self._world.store.all("principal"):
            if principal["appId"] == app and principal["tenant"] == tenant:
                return principal
        raise refusals.NO_APPLICATION.error(app=app, tenant=tenant)

    def _check_secret(self, app: str, secret: str) -> None:
        application = self._world.store.get("application", app)
        known = application["secret"] if application else None
        if not known or not hmac.compare_digest(known, digest(secret)):
            raise refusals.BAD_SECRET.error(app=app)

    def _check_assertion(self, app: str, assertion: str) -> None:
        try:
            claims = unverified(assertion)
        except TokenError as error:
            raise refusals.BAD_ASSERTION.error(why=error) from error
        issuer, subject, audience = (str(claims.get(name, "")) for name in ("iss", "sub", "aud"))
        # In Entra's order: whom the assertion names is looked up before its signature is checked.
        if not any(
            (each["issuer"], each["subject"]) == (issuer, subject) and audience in each["audiences"]
            for each in self._federations(app)
        ):
            raise refusals.NO_FEDERATION.error(issuer=issuer, subject=subject, audience=audience)
        signer = self._signer(issuer)
        if signer is None:
            raise refusals.BAD_ASSERTION.error(why=f"The keys of issuer '{issuer}' cannot be fetched.")
        try:
            signer.verify(assertion)
        except TokenError as error:
            refusal = refusals.EXPIRED_ASSERTION if "over" in str(error) else refusals.BAD_ASSERTION
            raise refusal.error(why=error) from error

    def _federations(self, app: str) -> list[Document]:
        application = self._world.store.get("application", app)
        if application is not None:
            return list(application["federations"].values())
        return [
            federation
            for key, identity in self._world.store.all("uami")
            if identity["clientId"] == app
            for _, federation in self._world.store.all("federation", f"{key}/")
        ]

    def _signer(self, issuer: str) -> Signer | None:
        if issuer == self._world.workload_issuer:
            return self._workload
        return self._entra if issuer in map(self._world.issuer, SUBSCRIPTIONS.values()) else None

    def _audience(self, scope: str, tenant: str) -> str:
        if not scope.endswith("/.default"):
            raise refusals.BAD_SCOPE.error(scope=scope)
        resource = scope.removesuffix("/.default").rstrip("/")
        vaults = {document["audience"] for _, document in self._world.store.all("vault")}
        if resource not in {MANAGEMENT, STORAGE, GRAPH, TOKEN_EXCHANGE, *vaults}:
            raise refusals.NO_RESOURCE.error(resource=resource, tenant=tenant)
        return resource

    # Objects

    def add_application(self, tenant: str, name: str, audience: str, *, secret: str = "", app: str = "") -> Document:
        """An app registration; its own tenant's service principal is made apart, as Graph does."""
        application = {
            "appId": app or new_id(),
            "audience": audience,
            "displayName": name,
            "federations": {},
            "id": new_id(),
            "secret": digest(secret) if secret else "",
            "tenant": tenant,
        }
        self._world.store.put("application", application["appId"], application)
        return application

    def add_principal(self, tenant: str, app: str, *, resource: str = "") -> Document:
        """A service principal of an application in a tenant, or of a managed identity."""
        principal = {
            "appId": app,
            "id": new_id(),
            "made": self._world.now(),
            "resource": resource,
            "tenant": tenant,
            "type": "ManagedIdentity" if resource else "Application",
        }
        self._world.store.put("principal", principal["id"], principal)
        return principal

    def consent(self, tenant: str, app: str) -> Document:
        """What an administrator's consent makes: the service principal of a multi-tenant app. Raises AzureError."""
        application = self._world.store.get("application", app)
        if application is None or (application["tenant"] != tenant and application["audience"] == "AzureADMyOrg"):
            raise AzureError(
                "Request_BadRequest",
                f"The appId '{app}' of the service principal does not reference a valid application object.",
                400,
            )
        for _, principal in self._world.store.all("principal"):
            if principal["appId"] == application["appId"] and principal["tenant"] == tenant:
                raise AzureError(
                    "Request_MultipleObjectsWithSameKeyValue",
                    "The service principal cannot be created, updated, or restored because the service principal name "
                    f"{app} is already in use.",
                    409,
                )
        return self.add_principal(tenant, application["appId"])


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
