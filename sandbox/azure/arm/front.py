"""Resource Manager's door: who calls, may they, and which type answers."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.azure import refusals
from sandbox.azure.arm.authorization import RoleAssignments, RoleDefinitions
from sandbox.azure.arm.eventgrid import SystemTopics, TopicSubscriptions
from sandbox.azure.arm.groups import Groups
from sandbox.azure.arm.identity import Federations, Identities
from sandbox.azure.arm.keyvault import DeletedVaults, KeysType, SecretsType, VaultsType
from sandbox.azure.arm.kit import Kit, Type
from sandbox.azure.arm.place import Place, parse
from sandbox.azure.arm.storage import Accounts, BlobServices, Containers, Queues
from sandbox.azure.arm.web import AppSettings, Plans, Sites
from sandbox.azure.directory import Caller
from sandbox.azure.refusals import AzureError
from sandbox.azure.tokens import TokenError
from sandbox.azure.world import MANAGEMENT, SUBSCRIPTIONS
from sandbox.elastic.web import Request, Response, json_response

TYPES: Sequence[Type] = (
    Groups(),
    Identities(),
    Federations(),
    RoleAssignments(),
    RoleDefinitions(),
    VaultsType(),
    DeletedVaults(),
    KeysType(),
    SecretsType(),
    Accounts(),
    BlobServices(),
    Containers(),
    Queues(),
    SystemTopics(),
    TopicSubscriptions(),
    Plans(),
    Sites(),
    AppSettings(),
)
_BY_NAME = {each.name.lower(): each for each in TYPES}
_VERBS = {"PUT": "write", "PATCH": "write", "GET": "read", "HEAD": "read", "DELETE": "delete", "POST": "read"}
_AUDIENCES = (MANAGEMENT, "https://management.core.windows.net")


class ResourceManager:
    """Answers what begins with /subscriptions."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def answer(self, request: Request) -> Response:
        try:
            return self._answer(request)
        except AzureError as error:
            return json_response(error.status, {"error": {"code": error.code, "message": error.message}})

    def _answer(self, request: Request) -> Response:
        caller = self._caller(request)
        segments = request.segments
        reads_by_post = request.method == "POST" and segments[-1:] == ("list",)
        place = parse(segments[:-1] if reads_by_post else segments)
        if place is None or not request.query.get("api-version"):
            raise AzureError(
                "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required.", 400
            )
        kind = _BY_NAME.get(place.type.lower())
        if kind is None or request.method not in _VERBS or (request.method == "POST" and not reads_by_post):
            raise refusals.NOT_OFFERED.error(what=f"{request.method} of {place.type}")
        self._check(caller, place, "list/action" if reads_by_post else _VERBS[request.method])
        return self._carried_out(kind, place, request, caller)

    def _carried_out(self, kind: Type, place: Place, request: Request, caller: Caller) -> Response:
        if place.is_collection:
            if request.method != "GET":
                raise refusals.NOT_OFFERED.error(what=f"{request.method} of a collection")
            return json_response(200, {"value": kind.list(self._kit, place)})
        if request.method == "PUT":
            status, document = kind.put(self._kit, place, request.json(), caller)
            return json_response(status, document)
        if request.method == "DELETE":
            kind.delete(self._kit, place)
            return Response(200)
        if request.method == "PATCH":
            raise refusals.NOT_OFFERED.error(what="PATCH: PUT the whole resource")
        return json_response(200, kind.get(self._kit, place))

    def _caller(self, request: Request) -> Caller:
        header = request.headers.get("Authorization", "")
        if not header.startswith("Bearer "):
            raise refusals.NO_TOKEN.error()
        try:
            return self._kit.directory.caller(header.removeprefix("Bearer "), _AUDIENCES)
        except TokenError as error:
            raise refusals.BAD_TOKEN.error(why=error) from error

    def _check(self, caller: Caller, place: Place, verb: str) -> None:
        tenant = SUBSCRIPTIONS.get(place.subscription)
        if tenant is None:
            raise refusals.NO_SUBSCRIPTION.error(subscription=place.subscription)
        if tenant != caller.tenant:
            issuer = self._kit.world.issuer
            raise refusals.BAD_TENANT.error(issuer=issuer(caller.tenant), tenant=issuer(tenant))
        action = f"{place.type}/{verb}"
        scope = place.scope or place.id
        if not self._kit.rbac.is_allowed(caller.principal, action, scope, is_data=False):
            raise refusals.AUTHORIZATION_FAILED.error(client=caller.principal, action=action, scope=scope)
