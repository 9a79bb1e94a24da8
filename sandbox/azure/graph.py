"""Microsoft Graph, as far as app registrations go: applications, their federated credentials, service principals."""

from __future__ import annotations

from typing import Any

from sandbox.azure import refusals
from sandbox.azure.directory import Caller, Directory
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.tokens import TokenError
from sandbox.azure.world import GRAPH, World, new_id
from sandbox.elastic.web import Request, Response, json_response

_AUDIENCES = ("AzureADMyOrg", "AzureADMultipleOrgs")
_MOST_CREDENTIALS = 20


class Graph:
    """Answers what begins with /v1.0. Who calls needs to be an administrator of the tenant: the operator's app, or
    the customer's.
    """

    def __init__(self, world: World, directory: Directory) -> None:
        self._world = world
        self._directory = directory

    def answer(self, request: Request) -> Response:
        try:
            return self._routed(self._caller(request), request)
        except AzureError as error:
            return json_response(error.status, {"error": {"code": error.code, "message": error.message}})

    def _routed(self, caller: Caller, request: Request) -> Response:
        method, parts = request.method, request.segments[1:]
        match (method, *parts):
            case ("POST", "applications"):
                return json_response(201, self._create(caller, request.json()))
            case ("GET", "applications", id_):
                return json_response(200, _shown(self._application(caller, id_)))
            case ("PATCH", "applications", id_):
                return self._update(caller, id_, request.json())
            case ("DELETE", "applications", id_):
                self._delete(self._application(caller, id_))
                return Response(204)
            case ("POST", "applications", id_, "federatedIdentityCredentials"):
                return json_response(201, self._federate(caller, id_, request.json()))
            case ("GET", "applications", id_, "federatedIdentityCredentials", name):
                return json_response(200, self._federation(caller, id_, name))
            case ("PATCH", "applications", id_, "federatedIdentityCredentials", name):
                self._federate(caller, id_, request.json(), present=self._federation(caller, id_, name))
                return Response(204)
            case ("DELETE", "applications", id_, "federatedIdentityCredentials", name):
                application = self._application(caller, id_)
                found = self._federation(caller, id_, name)
                del application["federations"][found["id"]]
                self._world.store.put("application", application["appId"], application)
                return Response(204)
            case ("POST", "servicePrincipals"):
                principal = self._directory.consent(caller.tenant, request.json().get("appId") or "")
                return json_response(201, {"appId": principal["appId"], "id": principal["id"]})
            case ("GET", "servicePrincipals"):
                found = [p for _, p in self._world.store.all("principal") if p["tenant"] == caller.tenant]
                shown = [{"appId": each["appId"], "id": each["id"]} for each in found if not each["resource"]]
                return json_response(200, {"value": shown})
            case ("DELETE", "servicePrincipals", id_):
                found = self._world.store.get("principal", id_)
                if found is None or found["tenant"] != caller.tenant:
                    raise _missing(id_)
                self._world.store.delete("principal", id_)
                return Response(204)
        raise refusals.NOT_OFFERED.error(what=f"{method} /{'/'.join(parts)} of Graph")

    def _caller(self, request: Request) -> Caller:
        header = request.headers.get("Authorization", "")
        try:
            caller = self._directory.caller(header.removeprefix("Bearer "), (GRAPH,))
        except TokenError as error:
            raise AzureError("InvalidAuthenticationToken", f"Access token is invalid: {error}.", 401) from error
        application = self._world.store.get("application", caller.app)
        if application is None or not application.get("administrator"):
            raise AzureError("Authorization_RequestDenied", "Insufficient privileges to complete the operation.", 403)
        return caller

    def _application(self, caller: Caller, id_: str) -> Document:
        for _, application in self._world.store.all("application"):
            if application["id"] == id_ and application["tenant"] == caller.tenant:
                return application
        raise _missing(id_)

    def _create(self, caller: Caller, body: dict[str, Any]) -> Document:
        audience = body.get("signInAudience") or "AzureADMyOrg"
        if audience not in _AUDIENCES or not body.get("displayName"):
            raise AzureError("Request_BadRequest", "displayName and a signInAudience of organisations are needed.", 400)
        application = self._directory.add_application(caller.tenant, body["displayName"], audience)
        application["notes"] = body.get("notes")
        self._world.store.put("application", application["appId"], application)
        return _shown(application)

    def _update(self, caller: Caller, id_: str, body: dict[str, Any]) -> Response:
        application = self._application(caller, id_)
        for name, field in (("displayName", "displayName"), ("signInAudience", "audience"), ("notes", "notes")):
            if body.get(name) is not None:
                application[field] = body[name]
        self._world.store.put("application", application["appId"], application)
        return Response(204)

    def _delete(self, application: Document) -> None:
        self._world.store.delete("application", application["appId"])
        for key, principal in self._world.store.all("principal"):
            if principal["appId"] == application["appId"] and principal["tenant"] == application["tenant"]:
                self._world.store.delete("principal", key)

    def _federate(self, caller: Caller, id_: str, body: dict[str, Any], present: Document | None = None) -> Document:
        application = self._application(caller, id_)
        wanted = {**(present or {"id": new_id()}), **body}
        name = wanted.get("name") or ""
        if not 3 <= len(name) <= 120 or not all(wanted.get(each) for each in ("issuer", "subject", "audiences")):
            raise AzureError(
                "Request_BadRequest", "A federated credential needs name, issuer, subject and audiences.", 400
            )
        if present and present["name"] != name:
            raise AzureError("Request_BadRequest", "The name of a federated credential cannot be changed.", 400)
        others = [each for each in application["federations"].values() if each["id"] != wanted["id"]]
        if len(others) >= _MOST_CREDENTIALS:
            raise AzureError(
                "Request_BadRequest", f"An application has at most {_MOST_CREDENTIALS} federated credentials.", 400
            )
        if any(
            (each["issuer"], each["subject"]) == (wanted["issuer"], wanted["subject"]) or each["name"] == name
            for each in others
        ):
            raise AzureError(
                "Request_MultipleObjectsWithSameKeyValue", "FederatedIdentityCredential already exists.", 409
            )
        kept = {each: wanted.get(each) for each in ("id", "name", "issuer", "subject", "audiences", "description")}
        application["federations"][kept["id"]] = kept
        self._world.store.put("application", application["appId"], application)
        return kept

    def _federation(self, caller: Caller, id_: str, name: str) -> Document:
        for each in self._application(caller, id_)["federations"].values():
            if name in (each["id"], each["name"]):
                return each
        raise _missing(name)


def _shown(application: Document) -> Document:
    return {
        "appId": application["appId"],
        "displayName": application["displayName"],
        "id": application["id"],
        "notes": application.get("notes"),
        "signInAudience": application["audience"],
    }


def _missing(id_: str) -> AzureError:
    return AzureError(
        "Request_ResourceNotFound", f"Resource '{id_}' does not exist or one of its references is not present.", 404
    )
