"""What the gate knows of an object version: its encryption, its checksum, its parts.

The record lies in the version's user metadata under a name that no client may use. ministack keeps
metadata with each version, through history and restarts, so a version never exists without its
record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HEADER = "x-amz-meta-sandbox-gate-record"
FULL_OBJECT = "FULL_OBJECT"
COMPOSITE = "COMPOSITE"


@dataclass(frozen=True)
class Checksum:
    """`value` is base64, with `-<parts>` after it when the type is COMPOSITE."""

    algorithm: str
    value: str
    type: str = FULL_OBJECT

    @property
    def headers(self) -> dict[str, str]:
        return {f"x-amz-checksum-{self.algorithm.lower()}": self.value, "x-amz-checksum-type": self.type}


@dataclass(frozen=True)
class Segment:
    """One piece of ciphertext: `length` bytes, sealed under the object's data key. Base64 values."""

    length: int
    nonce: str
    tag: str


@dataclass(frozen=True)
class Seal:
    """SSE-KMS: the data key as KMS wrapped it, and under which key and encryption context.

    `context` is the value of `aws:s3:arn`: the object's ARN, or the bucket's with a bucket key.
    """

    key_arn: str
    wrapped: str
    context: str
    bucket_key: bool = False


@dataclass(frozen=True)
class Part:
    number: int
    size: int
    checksum: str


@dataclass(frozen=True)
class Record:
    """`seal` is None for SSE-S3, whose bytes lie as they came."""

    checksum: Checksum
    seal: Seal | None = None
    segments: tuple[Segment, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def encryption_headers(self) -> dict[str, str]:
        return encryption_headers(self.seal)

    def dump(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Record:
        stored = json.loads(text)
        return cls(
            checksum=Checksum(**stored["checksum"]),
            seal=Seal(**stored["seal"]) if stored["seal"] else None,
            segments=tuple(Segment(**segment) for segment in stored["segments"]),
            parts=tuple(Part(**part) for part in stored["parts"]),
        )

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Record:
        """The record of one of ministack's object or version records."""
        return cls.load(stored["metadata"][HEADER])


@dataclass(frozen=True)
class UploadRecord:
    """What a multipart upload was begun with. `names_algorithm`: the client chose the checksum algorithm."""

    algorithm: str
    checksum_type: str
    names_algorithm: bool
    seal: Seal | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def encryption_headers(self) -> dict[str, str]:
        return encryption_headers(self.seal)

    def dump(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> UploadRecord:
        stored = json.loads(text)
        seal = stored.pop("seal")
        return cls(**stored, seal=Seal(**seal) if seal else None)


def encryption_headers(seal: Seal | None) -> dict[str, str]:
    if seal is None:
        return {"x-amz-server-side-encryption": "AES256"}
    headers = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": seal.key_arn,
    }
    if seal.bucket_key:
        headers["x-amz-server-side-encryption-bucket-key-enabled"] = "true"
    return headers
