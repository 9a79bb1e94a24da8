"""The API, version 1: what there is to see."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response

from console import models, views
from console.callers import Caller, Right
from console.house import TheCaller, TheHouse, house_of, require
from console.problems import MEDIA_TYPE
from migrate import tenants
from migrate.gate import ArchiveClient
from stacks.record import TenantRecord

Data = dict[str, Any]
NAME = r"^[a-z][a-z0-9-]{1,30}[a-z0-9]$"
TenantName = Annotated[str, Path(pattern=NAME, description="The tenant's name.", examples=["acme"])]

_DESCRIPTIONS = {
    400: "A header that is missing or malformed",
    401: "Nobody is signed in, or too long ago for this",
    403: "The role may not do this, or it was not sent by a page of the Console",
    404: "It does not exist, or is another customer's: the same answer",
    409: "What the tenant is in the middle of speaks against it",
    412: "The tenant has changed since it was looked at",
    413: "Too large",
    422: "What was sent cannot be used",
    428: "If-Match is missing",
    429: "Too many requests; see Retry-After",
    500: "Something that Keyshift does not expect",
    502: "A cloud or the issuer refused or could not be reached",
    503: "A key cannot be used now",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a call may answer, for the OpenAPI document."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {MEDIA_TYPE: schema}}
        for status in (401, 429, 500, *statuses)
    }


def tenant_of(name: TenantName, house: TheHouse, caller: TheCaller) -> TenantRecord:
    """The caller's tenant of this name; everything else is not found."""
    return house.tenant(caller, name)


TheTenant = Annotated[TenantRecord, Depends(tenant_of)]
router = APIRouter(prefix="/api/v1")


@router.get("/me", tags=["sign-in"], responses=problems())
def me(caller: TheCaller) -> models.Me:
    """Who you are to the Console."""
    return models.Me(name=caller.name, role=caller.role, customer=caller.customer, signed_in_at=caller.auth_time)


@router.get("/tenants", tags=["tenants"], responses=problems())
def list_tenants(house: TheHouse, caller: TheCaller) -> list[models.TenantRow]:
    """Your tenants, and no others."""
    return [models.TenantRow.model_validate(views.summary(house, one)) for one in house.tenants(caller)]


@router.get("/tenants/{name}", tags=["tenants"], responses={304: {"description": "Unchanged"}, **problems(404, 422)})
def get_tenant(
    tenant: TheTenant,
    house: TheHouse,
    caller: TheCaller,
    response: Response,
    if_none_match: Annotated[str | None, Header()] = None,
) -> models.Tenant:
    """The whole of a tenant: mode, gate, keys, warnings, what it waits for. Its ETag goes into If-Match."""
    tag = views.etag(house, tenant)
    if if_none_match == tag:
        return Response(status_code=304, headers={"ETag": tag})  # type: ignore[return-value] # FastAPI passes it on
    response.headers["ETag"] = tag
    return models.Tenant.model_validate(views.describe(house, caller, tenant))


@router.get("/tenants/{name}/gate", tags=["archive"], responses=problems(404, 422))
def get_gate(tenant: TheTenant, house: TheHouse) -> models.Gate:
    """What Archive may do now. Archive shows the warnings for as long as they stand here."""
    return models.Gate.model_validate(views.gate(house, tenant))


@router.get("/tenants/{name}/archive", tags=["archive"], responses=problems(403, 404, 409, 422, 502))
def search_archive(
    tenant: TheTenant,
    house: TheHouse,
    caller: TheCaller,
    q: Annotated[str, Query(min_length=1, max_length=200, description="Words to look for.")],
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> models.Found:
    """The sample Archive's search: only what the gate lets it see."""
    require(caller, Right.DATA)
    client = ArchiveClient(house.project, tenant.name, fresh_seconds=0)
    found = client.search(q, limit)
    warnings = client.gate.now().warnings
    hits = [dict(hit) for hit in found["hits"]]
    return models.Found(
        tenant=tenant.name, total=found["total"], cutoff=found["cutoff"], hits=hits, warnings=list(warnings)
    )


@router.get("/tenants/{name}/keys", tags=["keys"], responses=problems(404, 422, 502))
def list_keys(tenant: TheTenant, house: TheHouse) -> list[models.LiveKey]:
    """The tenant's keys as their cloud sees them: state, fingerprint, age, expiry."""
    return [models.LiveKey.model_validate(key) for key in views.keys(house, tenant)]


@router.get("/tenants/{name}/verdicts", tags=["proofs"], responses=problems(404, 422))
def list_verdicts(tenant: TheTenant, house: TheHouse) -> list[dict[str, Any]]:
    """The signed records of what was proven, oldest first, each with its signature checked."""
    return tenants.verdicts(house.project, tenant.name)


@router.get("/tenants/{name}/verdicts/{id}", tags=["proofs"], responses=problems(404, 422))
def get_verdict(tenant: TheTenant, house: TheHouse, id: Annotated[str, Path(max_length=200)]) -> dict[str, Any]:
    """One verdict, to keep."""
    return tenants.verdict(house.project, tenant.name, id)


@router.get("/tenants/{name}/log", tags=["proofs"], responses=problems(404, 422))
def get_log(
    tenant: TheTenant,
    house: TheHouse,
    before: Annotated[int | None, Query(ge=1, description="Only lines before this number.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = views.LOG_LINES,
) -> list[models.LogLine]:
    """The tenant's hash-chained, signed log, the newest line first."""
    return [models.LogLine.model_validate(line) for line in views.log(house, tenant, before=before, limit=limit)]


def require_right(right: Right) -> Any:
    """A dependency: the caller has this right. After the tenant's, so that a foreign tenant is not found."""

    def check(_tenant: TheTenant, caller: TheCaller) -> Caller:
        require(caller, right)
        return caller

    return Depends(check)


__all__ = ["TheTenant", "house_of", "problems", "require_right", "router", "tenant_of"]
