"""KMS behind `KeyOps`: a key without material, an import token, and an import that happens once."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from migrate import aws
from migrate.errors import RefusedInput
from migrate.keys import confirmation, imported, wrap
from migrate.keys.ops import Described, Filled, Requested
from migrate.live import Live


class KmsKeys:
    pins_storages = False

    def __init__(self, live: Live) -> None:
        self._live = live

    @cached_property
    def _kms(self) -> Any:
        return aws.client(self._live.operator, "kms")

    def request(self, key: str, requests: Path, into: Path) -> Requested:
        tenant, arn = self._live.layout.tenant, self._live.key_arn(key)
        if self.material(key) is not None:
            raise RefusedInput(
                f"{key} of tenant {tenant} already holds the customer's key; a new request would make its upload unknown",
                hint=f"keyshift key list {tenant}",
                code="key-already-imported",
            )
        made = imported.request(self._kms, arn, requests)
        into.mkdir(parents=True, exist_ok=True)
        public_key = into / f"{tenant}-{key}-wrapping-public-key.der"
        public_key.write_bytes(imported.public_key_path(requests, made).read_bytes())
        return Requested(
            public_key=public_key,
            valid_until=made.valid_to,
            openssl=wrap.openssl_lines(public_key),
            wrap=f"keyshift key wrap {public_key}",
        )

    def upload(self, key: str, wrapped: bytes, sha256: str, requests: Path) -> Filled:
        found = imported.upload(self._kms, self._live.key_arn(key), wrapped, sha256, requests)
        return Filled(material=found.key_material_id, sha256=found.wrapped_sha256, already=found.already)

    def describe(self, key: str) -> Described:
        """Of a key in the customer's account KMS may say nothing at all."""
        arn = self._live.key_arn(key)
        try:
            found = self._kms.describe_key(KeyId=arn)["KeyMetadata"]
        except ClientError as error:
            return Described(id=arn, state=aws.code_of(error))
        return Described(
            id=found["Arn"],
            state=found["KeyState"],
            material=found.get("CurrentKeyMaterialId", "-"),
            made_at=_instant(found.get("CreationDate")),
            ends_at=_instant(found.get("DeletionDate") or found.get("ValidTo")),
        )

    def material(self, key: str) -> str | None:
        found = self._kms.describe_key(KeyId=self._live.key_arn(key))["KeyMetadata"]
        return None if found["KeyState"] == "PendingImport" else str(found.get("CurrentKeyMaterialId", ""))

    def require_fit(self, key: str) -> dict[str, Any]:
        return confirmation.require_fit(self._live, key)

    def require_in_storages(self, key: str) -> None:
        confirmation.require_through_s3(self._live, key)

    def enable(self, key: str, *, is_enabled: bool) -> None:
        call = self._kms.enable_key if is_enabled else self._kms.disable_key
        try:
            call(KeyId=self._live.key_arn(key))
        except ClientError as error:
            raise aws.explained(error, f"{'enabling' if is_enabled else 'disabling'} {key}") from error


def _instant(at: datetime | None) -> str | None:
    return at and at.isoformat()
