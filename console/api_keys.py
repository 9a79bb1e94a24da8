"""The API, version 1: what a customer does about a key before a move begins."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from console import models
from console.api import TheTenant, problems, require_right
from console.callers import Caller, Right
from console.house import House, TheCaller, TheHouse
from migrate import tenants
from migrate.errors import RefusedInput
from migrate.keys import onboarding
from migrate.log import Log
from stacks.record import TenantRecord

Data = dict[str, Any]
router = APIRouter(prefix="/api/v1", tags=["keys"])
OWN = [require_right(Right.OWN)]


@router.get("/tenants/{name}/wrapping-key", dependencies=OWN, responses=problems(403, 404, 409, 422, 502))
def get_wrapping_key(tenant: TheTenant, house: TheHouse) -> models.WrappingKey:
    """The public key to wrap yours with, until when it is good, and the lines to type on your own machine."""
    return models.WrappingKey.model_validate(wrapping_key(house, tenant)[0])


@router.get(
    "/tenants/{name}/wrapping-key.der",
    dependencies=OWN,
    responses={200: {"content": {"application/octet-stream": {}}}, **problems(403, 404, 409, 422, 502)},
    response_class=Response,
)
def download_wrapping_key(tenant: TheTenant, house: TheHouse) -> Response:
    """The same key as a file."""
    about, der = wrapping_key(house, tenant)
    named = {"Content-Disposition": f'attachment; filename="{about["file"]}"'}
    return Response(der, media_type="application/octet-stream", headers=named)


@router.post("/tenants/{name}/wrapped-keys", dependencies=OWN, responses=problems(403, 404, 409, 413, 422, 502))
def upload_wrapped_key(
    tenant: TheTenant, house: TheHouse, caller: TheCaller, body: models.WrappedKey
) -> models.Uploaded:
    """Imports your wrapped key. The same file once more changes nothing."""
    try:
        wrapped = base64.b64decode(body.wrapped, validate=True)
    except ValueError as error:
        raise RefusedInput("the wrapped key is no base64 text; nothing was changed", code="wrapped-key") from error
    return models.Uploaded.model_validate(upload(house, caller, tenant, wrapped, body.sha256))


@router.get("/tenants/{name}/key-policy", responses=problems(404, 422, 502))
def get_key_policy(
    tenant: TheTenant,
    house: TheHouse,
    account: Annotated[str | None, Query(pattern=r"^\d{12}$", description="Your AWS account.")] = None,
) -> models.KeyPolicy:
    """The policy to attach to a key in your own account."""
    return models.KeyPolicy.model_validate(onboarding.print_policy(house.project, tenant.name, account, None))


@router.post("/tenants/{name}/key-checks", dependencies=OWN, responses=problems(403, 404, 409, 422, 502))
def check_key(tenant: TheTenant, house: TheHouse, body: models.AliasToCheck) -> models.Checked:
    """Tries the key behind an alias in every way, and says what is missing. Changes nothing."""
    return models.Checked.model_validate(onboarding.check_key(house.project, tenant.name, body.alias))


def wrapping_key(house: House, tenant: TenantRecord) -> tuple[Data, bytes]:
    """What a customer needs to wrap, and the public key itself."""
    with tempfile.TemporaryDirectory(prefix="keyshift-") as folder:
        found = tenants.key_request(house.project, tenant.name, Path(folder))
        file = Path(found["public_key"])
        der = file.read_bytes()
    lines = [line.replace(f"{folder}/", "") for line in found["openssl"]]
    about = {
        "tenant": tenant.name,
        "key": found["key"],
        "file": file.name,
        "public_key": base64.b64encode(der).decode(),
        "sha256": hashlib.sha256(der).hexdigest(),
        "valid_until": found["valid_until"],
        "openssl": lines,
        "keyshift": f"keyshift key wrap {file.name} --out EncryptedKeyMaterial.bin --keep PlaintextKeyMaterial.bin",
    }
    return about, der


def upload(house: House, caller: Caller, tenant: TenantRecord, wrapped: bytes, sha256: str) -> Data:
    """Imports a wrapped key; who did it goes into the tenant's log, nothing of the key but its fingerprint."""
    with tempfile.TemporaryDirectory(prefix="keyshift-") as folder:
        file = Path(folder) / "wrapped-key.bin"
        file.write_bytes(wrapped)
        try:
            found = tenants.key_upload(house.project, tenant.name, file, sha256)
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str):
                error.message = message.replace(str(file), "the wrapped key")  # type: ignore[attr-defined]
            raise
    log = Log(tenants.folder(house.project, tenant.name))
    log.append({"event": "key-uploaded", "by": caller.id, "key": found["key"], "fingerprint": found["fingerprint"]})
    return found
