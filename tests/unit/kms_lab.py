"""A KMS in the process, callers made by hand, and short ways to make keys for the KMS tests."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sandbox.aws.caller import Caller
from sandbox.aws.kms import Kms

REGION = "eu-west-1"
VENDOR, CUSTOMER, ELASTIC = "111122223333", "444455556666", "777788889999"
ORG_PATH = "o-ygducmlz12/r-e5t3/ou-e5t3-fzpdq76p/ou-e5t3-ysfcmd95/ou-e5t3-hwt05su3/"
VIA_S3 = f"s3.{REGION}.amazonaws.com"


def user(account: str, name: str = "operator", *, iam: str | Mapping[str, str] = "allow", **more: Any) -> Caller:
    """An IAM user whose identity policies say `iam` to everything, or by action (else "none")."""

    def identity_allows(action: str, _resource: str, _context: Mapping[str, Any]) -> str:
        return iam if isinstance(iam, str) else iam.get(action, "none")

    arn = f"arn:aws:iam::{account}:user/{name}"
    return Caller(account, arn, arn, more.get("org_paths", ()), more.get("is_root", False), identity_allows)


def role_session(account: str, role: str, *, iam: str = "allow") -> Caller:
    arn = f"arn:aws:sts::{account}:assumed-role/{role}/session"
    return Caller(account, arn, f"arn:aws:iam::{account}:role/{role}", (), False, lambda *_: iam)


VENDOR_ADMIN, CUSTOMER_ADMIN = user(VENDOR), user(CUSTOMER, "customer")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class OnePair:
    """The same real RSA pair each time: making one costs more than all else in these tests."""

    def __init__(self) -> None:
        self._pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def take(self, _spec: str) -> rsa.RSAPrivateKey:
        return self._pair

    def close(self) -> None:
        """Nothing runs."""


ONE_PAIR = OnePair()


def open_kms(folder: Path, **options: Any) -> Kms:
    kms = Kms(folder, REGION, wrapping_keys_ready=0, **{"rotation_seconds": 0.0, **options})
    kms.wrapping_keys = ONE_PAIR
    return kms


def blob(content: bytes) -> str:
    return base64.b64encode(content).decode()


def wrap(parameters: Mapping[str, Any], material: bytes, *, digest: hashes.HashAlgorithm | None = None) -> str:
    """What a customer does with the answer of GetParametersForImport."""
    digest = digest or hashes.SHA256()
    public = serialization.load_der_public_key(base64.b64decode(parameters["PublicKey"]))
    return blob(public.encrypt(material, padding.OAEP(padding.MGF1(digest), digest, None)))


class Lab:
    """Calls in the name of one caller."""

    def __init__(self, kms: Kms, caller: Caller = VENDOR_ADMIN) -> None:
        self.kms = kms
        self.caller = caller

    def __call__(self, operation: str, via: str | None = None, **request: Any) -> dict[str, Any]:
        return self.kms.call(self.caller, operation, request, via_service=via)

    def as_(self, caller: Caller) -> "Lab":
        return Lab(self.kms, caller)

    def key(self, **request: Any) -> str:
        return self("CreateKey", **request)["KeyMetadata"]["Arn"]

    def state(self, key: str) -> str:
        return self("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"]

    def parameters(self, key: str, algorithm: str = "RSAES_OAEP_SHA_256") -> dict[str, Any]:
        return self("GetParametersForImport", KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048")

    def bring(self, key: str, material: bytes, **request: Any) -> str:
        """Import `material`, not to expire unless asked; returns its id."""
        parameters = self.parameters(key)
        request = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"} | request
        answer = self(
            "ImportKeyMaterial",
            KeyId=key,
            ImportToken=parameters["ImportToken"],
            EncryptedKeyMaterial=wrap(parameters, material),
            **request,
        )
        return answer["KeyMaterialId"]

    def imported_key(self, material: bytes | None = None, **request: Any) -> str:
        key = self.key(Origin="EXTERNAL", **request)
        self.bring(key, material or os.urandom(32))
        return key

    def encrypt(self, key: str, plaintext: bytes = b"secret", **request: Any) -> str:
        return self("Encrypt", KeyId=key, Plaintext=blob(plaintext), **request)["CiphertextBlob"]

    def decrypt(self, ciphertext: str, **request: Any) -> bytes:
        return base64.b64decode(self("Decrypt", CiphertextBlob=ciphertext, **request)["Plaintext"])


def statement(principal: Any, actions: Any = "kms:*", *, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    principal = principal if principal == "*" else {"AWS": principal}
    return {"Effect": effect, "Principal": principal, "Action": actions, "Resource": "*", **more}


def root(account: str) -> str:
    return f"arn:aws:iam::{account}:root"
