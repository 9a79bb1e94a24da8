"""SSE-KMS as S3 does it: which encryption a write gets, a data key from KMS for every write, Decrypt at every read.

Sources: S3 User Guide, "Using server-side encryption with AWS KMS keys", "Setting default
server-side encryption behavior", "Blocking or unblocking SSE-C".
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from xml.etree.ElementTree import Element

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from sandbox.aws.caller import Caller
from sandbox.aws.kms import KmsError
from sandbox.aws.s3.message import S3Error, element, group
from sandbox.aws.s3.record import Seal, Segment

_HEADER = "x-amz-server-side-encryption"
_CUSTOMER_KEY = ("x-amz-server-side-encryption-customer-", "x-amz-copy-source-server-side-encryption-customer-")
_BLOCKED_BY_DEFAULT = ("SSE-C",)


class KeyService(Protocol):
    def call(
        self, caller: Caller, operation: str, request: dict[str, Any], *, via_service: str | None = None
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Encryption:
    """What a write is to be encrypted with. `kms_key` is None for SSE-S3; else a key id, alias or ARN."""

    kms_key: str | None = None
    bucket_key: bool = False


@dataclass(frozen=True)
class BucketEncryption:
    """A bucket's default, and the kinds of encryption that its writers may not use."""

    default: Encryption = Encryption()
    blocked: tuple[str, ...] = _BLOCKED_BY_DEFAULT
    uses_managed_key: bool = False

    def document(self) -> str:
        """As GetBucketEncryption returns it; also the form in which it is stored."""
        algorithm = "AES256" if self.default.kms_key is None and not self.uses_managed_key else "aws:kms"
        by_default = [element("SSEAlgorithm", algorithm)]
        if self.default.kms_key:
            by_default.append(element("KMSMasterKeyID", self.default.kms_key))
        blocked = (element("EncryptionType", kind) for kind in self.blocked or ("NONE",))
        rule = (
            group("ApplyServerSideEncryptionByDefault", by_default),
            element("BucketKeyEnabled", str(self.default.bucket_key).lower()),
            group("BlockedEncryptionTypes", blocked),
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ServerSideEncryptionConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"{group('Rule', rule)}</ServerSideEncryptionConfiguration>"
        )

    @classmethod
    def parse(cls, root: Element, account: str, region: str) -> BucketEncryption:
        """Read a configuration that a client put. `account`: whose keys a bare key id or alias means."""
        rules = _children(root, "Rule")
        if len(rules) != 1:
            raise _malformed()
        rule = rules[0]
        by_default = _children(rule, "ApplyServerSideEncryptionByDefault")
        algorithm = _text(by_default[0], "SSEAlgorithm") if by_default else "AES256"
        key = _text(by_default[0], "KMSMasterKeyID") if by_default else ""
        if algorithm == "aws:kms:dsse":
            raise S3Error("NotImplemented", "DSSE-KMS is not implemented.", 501)
        if algorithm not in ("AES256", "aws:kms") or (algorithm == "AES256" and key):
            raise _malformed()
        bucket_key = _text(rule, "BucketKeyEnabled").lower() == "true"
        kinds = [kind.text or "" for listed in _children(rule, "BlockedEncryptionTypes") for kind in listed]
        if not set(kinds) <= {"NONE", "SSE-C"}:
            raise _malformed()
        blocked = tuple(kind for kind in kinds if kind != "NONE") if kinds else _BLOCKED_BY_DEFAULT
        named = qualified(key, account, region) if key else None
        return cls(Encryption(named, bucket_key), blocked, algorithm == "aws:kms" and not key)


def qualified(key: str, account: str, region: str) -> str:
    """A key as S3 stores it in a bucket's default. S3 does not ask KMS whether it exists (API_PutBucketEncryption).

    A bare key id becomes an ARN; an alias stays as it is, and is resolved anew, in the writer's
    account, at every write.
    """
    return key if key.startswith(("arn:", "alias/")) else f"arn:aws:kms:{region}:{account}:key/{key}"


def of_write(headers: Mapping[str, str], bucket: BucketEncryption) -> Encryption:
    """The encryption of a write: what its headers ask for, else the bucket's default."""
    _refuse_customer_keys(headers, bucket)
    algorithm = headers.get(_HEADER)
    key = headers.get(f"{_HEADER}-aws-kms-key-id")
    if headers.get(f"{_HEADER}-context"):
        raise S3Error("NotImplemented", "An additional encryption context is not implemented.", 501)
    asked = headers.get(f"{_HEADER}-bucket-key-enabled")
    bucket_key = asked.lower() == "true" if asked else bucket.default.bucket_key
    if algorithm is None:
        if key:
            raise S3Error("InvalidArgument", f"{_HEADER}-aws-kms-key-id is only valid with aws:kms.")
        kms_key = "alias/aws/s3" if bucket.uses_managed_key else bucket.default.kms_key
        return Encryption(kms_key, bucket_key and kms_key is not None)
    if algorithm == "AES256" and not key:
        return Encryption()
    if algorithm == "aws:kms":
        return Encryption(key or "alias/aws/s3", bucket_key)
    if algorithm == "aws:kms:dsse":
        raise S3Error("NotImplemented", "DSSE-KMS is not implemented.", 501)
    raise S3Error("InvalidArgument", "The encryption method specified is not supported")


def _refuse_customer_keys(headers: Mapping[str, str], bucket: BucketEncryption) -> None:
    if not any(name.startswith(_CUSTOMER_KEY) for name in headers):
        return
    if "SSE-C" in bucket.blocked:
        message = "Server-side encryption with customer-provided keys (SSE-C) is blocked for this bucket."
        raise S3Error("AccessDenied", message, 403)
    raise S3Error("NotImplemented", "SSE-C is not implemented.", 501)


@dataclass(frozen=True)
class DataKey:
    """A plaintext data key in use, and the seal by which KMS gives it back."""

    secret: bytes
    seal: Seal

    def encrypt(self, body: bytes) -> tuple[bytes, Segment]:
        nonce = os.urandom(12)
        encryptor = Cipher(AES256(self.secret), GCM(nonce)).encryptor()
        content = encryptor.update(body) + encryptor.finalize()
        return content, Segment(len(body), _base64(nonce), _base64(encryptor.tag))

    def decrypt(self, content: bytes, segments: tuple[Segment, ...]) -> bytes:
        if len(segments) == 1:
            return self._open(content, segments[0])
        pieces, start = [], 0
        for segment in segments:
            pieces.append(self._open(content[start : start + segment.length], segment))
            start += segment.length
        return b"".join(pieces)

    def _open(self, content: bytes, segment: Segment) -> bytes:
        mode = GCM(base64.b64decode(segment.nonce), base64.b64decode(segment.tag))
        decryptor = Cipher(AES256(self.secret), mode).decryptor()
        try:
            return decryptor.update(content) + decryptor.finalize()
        except InvalidTag as error:
            raise S3Error("InternalError", "The stored object failed its integrity check.", 500) from error


class KeyRing:
    """The gate's use of KMS, always as the caller and via S3."""

    def __init__(self, kms: KeyService, region: str) -> None:
        self._kms = kms
        self._via = f"s3.{region}.amazonaws.com"

    def new(self, caller: Caller, encryption: Encryption, bucket: str, key: str) -> DataKey | None:
        """A fresh data key for a write, or None for SSE-S3."""
        if encryption.kms_key is None:
            return None
        context = f"arn:aws:s3:::{bucket}" if encryption.bucket_key else f"arn:aws:s3:::{bucket}/{key}"
        request = {"KeyId": encryption.kms_key, "KeySpec": "AES_256"}
        made = self._call(caller, "GenerateDataKey", request, context)
        seal = Seal(made["KeyId"], made["CiphertextBlob"], context, encryption.bucket_key)
        return DataKey(base64.b64decode(made["Plaintext"]), seal)

    def open(self, caller: Caller, seal: Seal) -> DataKey:
        opened = self._call(caller, "Decrypt", {"CiphertextBlob": seal.wrapped}, seal.context)
        return DataKey(base64.b64decode(opened["Plaintext"]), seal)

    def rewrap(self, caller: Caller, seal: Seal, key_arn: str, context: str, *, bucket_key: bool) -> Seal:
        """Seal a data key that is already in use under another KMS key.

        API_UpdateObjectEncryption asks the caller for kms:Decrypt, Encrypt, GenerateDataKey and
        ReEncrypt*; ReEncrypt does the work, the other calls prove that the rights are there.
        """
        secret = self.open(caller, seal).secret
        self._call(caller, "GenerateDataKey", {"KeyId": key_arn, "KeySpec": "AES_256"}, context)
        self._call(caller, "Encrypt", {"KeyId": key_arn, "Plaintext": _base64(secret)}, context)
        made = self._ask(
            caller,
            "ReEncrypt",
            {
                "CiphertextBlob": seal.wrapped,
                "SourceEncryptionContext": {"aws:s3:arn": seal.context},
                "DestinationKeyId": key_arn,
                "DestinationEncryptionContext": {"aws:s3:arn": context},
            },
        )
        return Seal(made["KeyId"], made["CiphertextBlob"], context, bucket_key)

    def _call(self, caller: Caller, operation: str, request: dict[str, Any], context: str) -> dict[str, Any]:
        return self._ask(caller, operation, {**request, "EncryptionContext": {"aws:s3:arn": context}})

    def _ask(self, caller: Caller, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._kms.call(caller, operation, request, via_service=self._via)
        except KmsError as error:
            raise _as_s3_error(error) from error


def _as_s3_error(error: KmsError) -> S3Error:
    """KMS's refusal in S3's words (re:Post "S3 AccessDenied KMS"; aws-cli issue 4507; KMS Guide, key-state)."""
    if error.code == "AccessDeniedException":
        return S3Error("AccessDenied", error.message, 403)
    if error.code == "ThrottlingException":
        message = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
        return S3Error("ThrottlingException", message, 400)
    if error.status >= 500:
        return S3Error("InternalError", "We encountered an internal error. Please try again.", 500)
    return S3Error(f"KMS.{error.code}", error.message, 400)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _children(parent: Element, name: str) -> list[Element]:
    return [child for child in parent if child.tag.rpartition("}")[2] == name]


def _text(parent: Element, name: str) -> str:
    return next((child.text or "" for child in _children(parent, name)), "").strip()


def _malformed() -> S3Error:
    message = "The XML you provided was not well-formed or did not validate against our published schema"
    return S3Error("MalformedXML", message)
