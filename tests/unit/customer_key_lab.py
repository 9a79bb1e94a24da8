# ruff: noqa: N803 - the names are boto3's.
"""A customer's account with the sandbox's KMS in the process, and boto-like clients of everybody who uses its key."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from kms_lab import (
    CUSTOMER,
    CUSTOMER_ADMIN,
    ELASTIC,
    ORG_PATH,
    REGION,
    VENDOR,
    VENDOR_ADMIN,
    VIA_S3,
    Lab,
    open_kms,
    role_session,
    user,
)

from components import naming
from migrate.copy.s3 import Side, StorageRef
from migrate.keys import policy
from migrate.keys.check import Alias, Ways
from sandbox.aws.caller import Caller
from sandbox.aws.kms import KmsError

TERMS = policy.Terms(customer_account=CUSTOMER, vendor_account=VENDOR, region=REGION, tenants=["acme"])
BUCKET = naming.dedicated_bucket(tenant="acme", storage="s2", account=VENDOR, region=REGION)
ALIAS = "arn:aws:kms:eu-west-1:444455556666:alias/keyshift-acme"
BINARY = ("Plaintext", "CiphertextBlob")


@dataclass
class BotoKms:
    """The calls that Keyshift makes, with bytes and errors as boto3 has them."""

    lab: Lab
    caller: Caller
    via: str | None = None

    def __getattr__(self, name: str) -> Any:
        operation = "".join(part.capitalize() for part in name.split("_"))

        def call(**request: Any) -> dict[str, Any]:
            sent = {k: base64.b64encode(v).decode() if k in BINARY else v for k, v in request.items()}
            try:
                answer = self.lab.as_(self.caller)(operation, via=self.via, **sent)
            except KmsError as error:
                raise ClientError({"Error": {"Code": error.code, "Message": error.message}}, operation) from error
            return {k: base64.b64decode(v) if k in BINARY else v for k, v in answer.items()}

        return call


class KeyedS3:
    """One object a key; each write asks KMS for a data key and each read opens it, as the caller and through S3."""

    def __init__(
        self, lab: Lab, caller: Caller, objects: dict[str, tuple[str, bytes, bytes]], default_key: str
    ) -> None:
        self._kms, self._objects, self._default = BotoKms(lab, caller, VIA_S3), objects, default_key

    def _asked(self, call: Any, key: str, **request: Any) -> dict[str, Any]:
        try:
            return call(EncryptionContext={"aws:s3:arn": f"arn:aws:s3:::{BUCKET}/{key}"}, **request)
        except ClientError as error:
            said = error.response["Error"]
            told = {"Code": "AccessDenied", "Message": said["Message"]}
            if said["Code"] != "AccessDeniedException":
                told["Code"] = f"KMS.{said['Code']}"
            raise ClientError({"Error": told}, "S3") from error

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **more: Any) -> dict[str, Any]:
        made = self._asked(
            self._kms.generate_data_key, Key, KeyId=more.get("SSEKMSKeyId", self._default), KeySpec="AES_256"
        )
        self._objects[Key] = (Bucket, Body, made["CiphertextBlob"])
        return {"VersionId": "v1"}

    def get_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        _bucket, body, wrapped = self._objects[Key]
        self._asked(self._kms.decrypt, Key, CiphertextBlob=wrapped)
        return {"Body": io.BytesIO(body)}

    def delete_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        del self._objects[Key]
        return {}

    def list_objects_v2(self, **_: Any) -> dict[str, Any]:
        return {"Contents": [{"Key": key} for key in sorted(self._objects)[:1]]}


class CustomerKey:
    """A key of the customer with the printed policy, its alias, and every way that a check takes."""

    def __init__(self, folder: Path, **key: Any) -> None:
        self.lab = Lab(open_kms(folder), CUSTOMER_ADMIN)
        self.arn = self.lab.key(**{"Policy": policy.document(TERMS), **key})
        self.alias = Alias.parse(ALIAS, region=REGION)
        self.lab("CreateAlias", AliasName="alias/keyshift-acme", TargetKeyId=self.arn.rpartition("/")[2])
        self.objects: dict[str, tuple[str, bytes, bytes]] = {}
        self.elastic = user(ELASTIC, "elastic", org_paths=(ORG_PATH,))

    def close(self) -> None:
        self.lab.kms.close()

    def put_policy(self, text: str) -> None:
        self.lab("PutKeyPolicy", KeyId=self.arn, Policy=text)

    def role(self, audience: str) -> Caller:
        return role_session(VENDOR, f"keyshift-acme-{audience}")

    def side(self, audience: str) -> Side:
        return Side(KeyedS3(self.lab, self.role(audience), self.objects, self.arn), StorageRef(BUCKET, "", self.arn))

    def archive_one(self) -> None:
        self.side("archive").s3.put_object(Bucket=BUCKET, Key="records/a.json", Body=b"{}")

    def ask_elastic(self) -> str:
        """What Elastic does with the key, all five actions; its refusal, or ""."""
        kms = BotoKms(self.lab, self.elastic)
        try:
            kms.describe_key(KeyId=self.arn)
            kms.get_key_rotation_status(KeyId=self.arn)
            made = kms.generate_data_key(KeyId=self.arn, KeySpec="AES_256")
            kms.decrypt(KeyId=self.arn, CiphertextBlob=made["CiphertextBlob"])
            kms.encrypt(KeyId=self.arn, Plaintext=b"x")
        except ClientError as error:
            return f"{error.operation_name}: {error.response['Error']['Code']}"
        return ""

    @property
    def ways(self) -> Ways:
        return Ways(
            describer=BotoKms(self.lab, VENDOR_ADMIN),
            prober=BotoKms(self.lab, self.role("runner")),
            storages={"s2": {name: self.side(name) for name in ("archive", "pipeline", "runner")}},
            is_writable=True,
            searches={"e2": self.ask_elastic},
        )
