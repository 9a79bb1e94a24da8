"""Checksums as S3 keeps them: verified on the way in, stored with the object, returned when asked.

Source: "Checking object integrity for data uploads in Amazon S3", API_PutObject, API_UploadPart,
API_CompleteMultipartUpload.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence

import google_crc32c

from sandbox.aws.s3 import crc
from sandbox.aws.s3.message import S3Error
from sandbox.aws.s3.record import COMPOSITE, FULL_OBJECT, Checksum

DEFAULT_ALGORITHM = "CRC64NVME"

_COMPUTE: dict[str, Callable[[bytes], bytes]] = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: google_crc32c.value(data).to_bytes(4, "big"),
    "CRC64NVME": lambda data: crc.crc64nvme(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}
_LINEAR = ("CRC32", "CRC32C", "CRC64NVME")
# Newer algorithms of the API model; refusing them beats storing a value nobody checked.
_NOT_OFFERED = ("SHA512", "MD5", "XXHASH64", "XXHASH3", "XXHASH128")


def compute(algorithm: str, data: bytes) -> str:
    return base64.b64encode(_COMPUTE[algorithm](data)).decode()


def known(algorithm: str) -> str:
    """The algorithm's name in capitals; an error as S3's for one that is not offered here."""
    name = algorithm.upper()
    if name in _NOT_OFFERED:
        raise S3Error("NotImplemented", f"The checksum algorithm {name} is not implemented.", 501)
    if name not in _COMPUTE:
        raise S3Error("InvalidRequest", "Checksum algorithm provided is unsupported.")
    return name


def claimed(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """(algorithm, base64 value) that the request states for its body, if any."""
    names = (*_COMPUTE, *_NOT_OFFERED)
    found = [
        (name, headers[f"x-amz-checksum-{name.lower()}"])
        for name in names
        if f"x-amz-checksum-{name.lower()}" in headers
    ]
    if len(found) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    return (known(found[0][0]), found[0][1]) if found else None


def named(headers: Mapping[str, str]) -> str | None:
    """The algorithm that the request names without a value."""
    name = headers.get("x-amz-checksum-algorithm") or headers.get("x-amz-sdk-checksum-algorithm")
    return known(name) if name else None


def of_body(headers: Mapping[str, str], body: bytes) -> Checksum:
    """The checksum to keep for a body, after checking what the request claims.

    Raises `BadDigest` or `InvalidDigest` as S3 does. A body without a claim gets CRC64NVME.
    """
    _check_md5(headers, body)
    claim = claimed(headers)
    if claim is None:
        algorithm = named(headers) or DEFAULT_ALGORITHM
        return Checksum(algorithm, compute(algorithm, body))
    algorithm, value = claim
    actual = compute(algorithm, body)
    if value != actual:
        raise S3Error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")
    return Checksum(algorithm, actual)


def _check_md5(headers: Mapping[str, str], body: bytes) -> None:
    claim = headers.get("content-md5")
    if claim is None:
        return
    try:
        digest = base64.b64decode(claim, validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise S3Error("InvalidDigest", "The Content-MD5 you specified was invalid.")
    if digest != hashlib.md5(body).digest():
        raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")


def upload_type(algorithm: str, requested: str | None) -> str:
    """FULL_OBJECT or COMPOSITE for a multipart upload (API_CreateMultipartUpload, ChecksumType)."""
    if requested is None:
        return FULL_OBJECT if algorithm == "CRC64NVME" else COMPOSITE
    wanted = requested.upper()
    impossible = algorithm not in _LINEAR if wanted == FULL_OBJECT else algorithm == "CRC64NVME"
    if wanted not in (FULL_OBJECT, COMPOSITE) or impossible:
        raise S3Error(
            "InvalidRequest",
            f"The {wanted} checksum type cannot be used with the {algorithm.lower()} checksum algorithm.",
        )
    return wanted


def of_parts(algorithm: str, type_: str, parts: Sequence[tuple[str, int]]) -> Checksum:
    """The object's checksum from its parts, each (base64 value, length)."""
    digests = [base64.b64decode(value) for value, _ in parts]
    if type_ == COMPOSITE:
        return Checksum(algorithm, f"{compute(algorithm, b''.join(digests))}-{len(parts)}", COMPOSITE)
    total = int.from_bytes(digests[0], "big")
    for digest, (_, length) in zip(digests[1:], parts[1:], strict=True):
        total = crc.joined(algorithm, total, int.from_bytes(digest, "big"), length)
    return Checksum(algorithm, base64.b64encode(total.to_bytes(len(digests[0]), "big")).decode())
