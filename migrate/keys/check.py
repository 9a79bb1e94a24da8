"""Is a customer's key fit for use? Each thing that we and Elastic need is looked at or really tried.

GetKeyPolicy does not work across accounts (KMS API), so a missing statement is inferred from what was refused:
every check names the one statement of the printed policy that it stands for.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from botocore.exceptions import ClientError
from elastic_transport import TransportError

from migrate import aws
from migrate.copy.s3 import Side, delete_version
from migrate.errors import RefusedInput
from migrate.keys import policy

_ALIAS = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>alias/[A-Za-z0-9/_-]+)")
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/.+")
OUT_OF_SIGHT = ".keyshift/"
"""Where a trial object lies for a moment: the pipeline indexes nothing there, and Archive never looks."""


class Came(StrEnum):
    """`untried`: it cannot be tried yet; `says` tells when it is."""

    OK = "ok"
    FAILED = "failed"
    NOTE = "note"
    UNTRIED = "untried"


@dataclass(frozen=True)
class Finding:
    """One check. `statement`: the Sid of the printed policy that is missing or was changed, if one is."""

    check: str
    came: Came
    says: str
    statement: str | None = None


@dataclass(frozen=True)
class Alias:
    """A customer's alias, in parts."""

    arn: str
    region: str
    account: str

    @classmethod
    def parse(cls, text: str, *, region: str) -> Alias:
        """Raises RefusedInput for anything but the ARN of an alias in `region`."""
        found = _ALIAS.fullmatch(text)
        if found is None:
            what = (
                "the ARN of a key: it would have to be given anew at each rotation" if _KEY_ARN.fullmatch(text) else ""
            )
            raise RefusedInput(
                f"{text!r} is not the ARN of a KMS alias{what and f', but {what}'}; nothing was changed",
                hint=f"it looks like arn:aws:kms:{region}:444455556666:alias/archive; "
                "aws kms list-aliases, run by the customer, prints it",
                code="not-an-alias",
            )
        if found["name"].startswith("alias/aws/"):
            raise RefusedInput(
                f"{text} names a key that AWS manages; its policy cannot be changed, so nobody can let us use it",
                hint="the customer makes a key of their own: keyshift key policy --help",
                code="aws-managed-key",
            )
        if found["region"] != region:
            raise RefusedInput(
                f"{text} is in {found['region']}, but the tenant is in {region}: a bucket takes only a key of its Region",
                hint=f"the customer makes the key in {region}",
                code="other-region",
            )
        return cls(text, found["region"], found["account"])


@dataclass(frozen=True)
class Seen:
    """What an alias led to: the key behind it and its current material, if KMS says which that is."""

    arn: str
    material: str | None
    metadata: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Ways:
    """By which ways a key can be tried. What is missing is reported as untried.

    `describer`: KMS as whoever runs the command; `prober`: KMS as the tenant's runner. `storages`: storage under
    the key -> role -> its side; `is_writable`: a trial object may be put there. `searches`: search under the key ->
    what Elastic answers, "" if it works.
    """

    describer: Any
    prober: Any | None = None
    storages: Mapping[str, Mapping[str, Side]] = field(default_factory=dict)
    is_writable: bool = False
    searches: Mapping[str, Callable[[], str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What came of all checks. `seen` is None when the alias leads nowhere that we can see."""

    alias: str
    seen: Seen | None
    findings: Sequence[Finding]

    @property
    def is_fit(self) -> bool:
        return self.seen is not None and not self.failed

    @property
    def failed(self) -> list[Finding]:
        return [one for one in self.findings if one.came is Came.FAILED]

    def data(self) -> dict[str, Any]:
        return {
            "alias": self.alias,
            "key": self.seen and self.seen.arn,
            "material": self.seen and self.seen.material,
            "fit": self.is_fit,
            "findings": [asdict(one) for one in self.findings],
            "missing_statements": sorted({one.statement for one in self.failed if one.statement}),
        }

    def summary(self) -> str:
        """What is wrong, in one line; "" if nothing is."""
        return "; ".join(f"{one.says}{_of(one.statement)}" for one in self.failed)


def check(alias: Alias, ways: Ways) -> Report:
    """Tries everything that can be tried now. Writes one object and takes it away again, where `ways` let it."""
    seen, described = describe(ways.describer, alias)
    if seen is None:
        return Report(alias.arn, None, described)
    findings = [*described, *of_metadata(seen.metadata), _rotation(ways.describer, seen.arn)]
    if seen.metadata.get("KeyState") == "Enabled":  # else every use is refused for that alone
        findings += [*direct(ways.prober, seen.arn), *_through_s3(ways, seen.arn), *_by_elastic(ways)]
    return Report(alias.arn, seen, findings)


def describe(kms: Any, alias: Alias) -> tuple[Seen | None, list[Finding]]:
    """The key behind an alias. KMS answers with the key's ARN whatever name it was asked by (API, DescribeKey)."""
    try:
        metadata = kms.describe_key(KeyId=alias.arn)["KeyMetadata"]
    except ClientError as error:
        code = aws.code_of(error)
        if code == "NotFoundException":
            return None, [Finding("alias", Came.FAILED, f"{alias.arn} does not exist, or its key was deleted")]
        if code != "AccessDeniedException":
            raise
        return None, [
            Finding("alias", Came.FAILED, f"DescribeKey of {alias.arn} is refused: {_said(error)}", policy.DESCRIBE)
        ]
    seen = Seen(metadata["Arn"], metadata.get("CurrentKeyMaterialId"), metadata)
    return seen, [Finding("alias", Came.OK, f"{alias.arn} leads to {seen.arn}")]


def of_metadata(metadata: Mapping[str, Any]) -> list[Finding]:
    """What DescribeKey alone decides. Pure."""
    return [_kind(metadata), _state(metadata), *_notes(metadata)]


def _kind(metadata: Mapping[str, Any]) -> Finding:
    spec, usage = metadata.get("KeySpec"), metadata.get("KeyUsage")
    if metadata.get("KeyManager") != "CUSTOMER":
        return Finding("kind", Came.FAILED, "the key is managed by AWS: nobody can change its policy")
    if (spec, usage) != ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"):
        return Finding(
            "kind", Came.FAILED, f"the key is {spec} for {usage}; S3 and Elastic take SYMMETRIC_DEFAULT only"
        )
    return Finding("kind", Came.OK, "symmetric, for encryption and decryption")


def _state(metadata: Mapping[str, Any]) -> Finding:
    state = str(metadata.get("KeyState"))
    if state == "Enabled":
        return Finding("state", Came.OK, "enabled")
    until = metadata.get("DeletionDate")
    words = {
        "Disabled": "the key is disabled: the customer enables it (aws kms enable-key)",
        "PendingDeletion": f"the key is about to be deleted{_on(until)}: aws kms cancel-key-deletion, then enable-key",
        "PendingImport": "the key has no material: the customer imports it",
    }
    return Finding("state", Came.FAILED, words.get(state, f"the key is {state}, not Enabled"))


def _notes(metadata: Mapping[str, Any]) -> list[Finding]:
    found = []
    if metadata.get("MultiRegion"):
        kind = metadata.get("MultiRegionConfiguration", {}).get("MultiRegionKeyType", "")
        text = "a multi-Region key: whoever may use a replica of it elsewhere can decrypt the data too"
        found.append(Finding("multi-region", Came.NOTE, text))
        if kind == "PRIMARY":
            text = "it is the primary; Elastic's documents name single-Region keys and replicas only"
            found.append(Finding("multi-region", Came.NOTE, text))
    if metadata.get("ExpirationModel") == "KEY_MATERIAL_EXPIRES":
        text = f"its imported material expires{_on(metadata.get('ValidTo'))}: all data is unreadable from then on"
        found.append(Finding("expiry", Came.NOTE, text))
    if metadata.get("CurrentKeyMaterialId") is None:
        text = "KMS does not say which material is current: only a move of the alias will be noticed as a rotation"
        found.append(Finding("material", Came.NOTE, text))
    return found


def _rotation(kms: Any, arn: str) -> Finding:
    try:
        status = kms.get_key_rotation_status(KeyId=arn)
    except ClientError as error:
        if aws.code_of(error) == "UnsupportedOperationException":
            return Finding("rotation", Came.NOTE, "a key of this origin does not rotate by itself")
        if aws.code_of(error) != "AccessDeniedException":
            raise
        return Finding("rotation", Came.FAILED, f"GetKeyRotationStatus is refused: {_said(error)}", policy.DESCRIBE)
    if not status.get("KeyRotationEnabled"):
        return Finding("rotation", Came.OK, "does not rotate by itself")
    return Finding("rotation", Came.OK, f"rotates by itself{_on(status.get('NextRotationDate'), ', next')}")


def direct(kms: Any | None, arn: str) -> list[Finding]:
    """The use of the key itself, as the runner: what tells a lost key from a busy S3 later."""
    names = ("generate-data-key", "decrypt")
    if kms is None:
        text = "tried when the tenant's roles stand: keyshift key onboard makes them able to"
        return [Finding(name, Came.UNTRIED, text) for name in names]
    try:
        made = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
    except ClientError as error:
        refused = Finding(names[0], *_refusal(error, "GenerateDataKey", policy.PROBE))
        return [refused, Finding(names[1], Came.UNTRIED, "nothing was encrypted that could be decrypted")]
    found = [Finding(names[0], Came.OK, "our runner encrypts under it")]
    try:
        opened = kms.decrypt(KeyId=arn, CiphertextBlob=made["CiphertextBlob"])["Plaintext"]
    except ClientError as error:
        return [*found, Finding(names[1], *_refusal(error, "Decrypt", policy.PROBE))]
    is_same = secrets.compare_digest(opened, made["Plaintext"])
    return [*found, _decrypted(names[1], is_same=is_same)]


def _decrypted(name: str, *, is_same: bool) -> Finding:
    if is_same:
        return Finding(name, Came.OK, "our runner decrypts under it")
    return Finding(name, Came.FAILED, "KMS gave back something else than what was encrypted")


def _through_s3(ways: Ways, arn: str) -> list[Finding]:
    if not ways.storages:
        text = (
            "tried in the first minute of the move, before a customer's byte is copied: no bucket is under this key yet"
        )
        return [Finding("through-s3", Came.UNTRIED, text)]
    return [finding for id in sorted(ways.storages) for finding in _in_bucket(ways, id, arn)]


def _in_bucket(ways: Ways, storage: str, arn: str) -> list[Finding]:
    sides = ways.storages[storage]
    found = []
    if ways.is_writable:
        found.append(trial(sides["runner"], storage, arn))
    key = _sample(sides["runner"])
    for role, side in sides.items():
        if key is None:
            found.append(Finding(f"read-{role}", Came.UNTRIED, f"{storage} holds nothing that could be read"))
            continue
        try:
            side.s3.get_object(Bucket=side.storage.bucket, Key=key)["Body"].close()
        except ClientError as error:
            if not aws.is_about_a_key(error):
                found.append(
                    Finding(f"read-{role}", Came.UNTRIED, f"{role} may not read {storage} now: {_said(error)}")
                )
                continue
            found.append(Finding(f"read-{role}", *_refusal(error, f"{role}'s GET in {storage}", policy.DATA)))
        else:
            found.append(Finding(f"read-{role}", Came.OK, f"{role} reads {storage}"))
    return found


def trial(side: Side, storage: str, arn: str) -> Finding:
    """One object under the key `arn` goes in and comes out, as the runner, and leaves nothing."""
    name, body = side.storage.prefix + OUT_OF_SIGHT + secrets.token_hex(16), secrets.token_bytes(32)
    encrypted = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": arn}
    place = {"Bucket": side.storage.bucket, "Key": name}
    try:
        version = side.s3.put_object(**place, Body=body, **encrypted).get("VersionId", "null")
    except ClientError as error:
        if not aws.is_about_a_key(error):
            raise
        return Finding("write-runner", *_refusal(error, f"a PUT into {storage}", policy.DATA))
    try:
        came = side.s3.get_object(**place, VersionId=version)["Body"].read()
    except ClientError as error:
        if not aws.is_about_a_key(error):
            raise
        return Finding("write-runner", *_refusal(error, f"a GET from {storage}", policy.DATA))
    finally:
        delete_version(side, name.removeprefix(side.storage.prefix), version)
    if came != body:
        return Finding("write-runner", Came.FAILED, f"{storage} gave back something else than what was put there")
    return Finding("write-runner", Came.OK, f"an object under the key goes into {storage} and comes out")


def _sample(side: Side) -> str | None:
    listed = side.s3.list_objects_v2(Bucket=side.storage.bucket, Prefix=side.storage.prefix, MaxKeys=1)
    return next((one["Key"] for one in listed.get("Contents", [])), None)


def _by_elastic(ways: Ways) -> list[Finding]:
    if not ways.searches:
        text = "Elastic tries it itself when the search is made; only its own accounts can"
        return [Finding("elastic", Came.UNTRIED, text)]
    found = []
    for id, ask in sorted(ways.searches.items()):
        try:
            refusal = ask()
        except TransportError as error:  # the network says nothing about a key
            found.append(Finding("elastic", Came.UNTRIED, f"{id} cannot be reached: {' '.join(str(error).split())}"))
            continue
        if refusal:
            found.append(Finding("elastic", Came.FAILED, f"{id} does not answer: {refusal}", policy.ELASTIC))
        else:
            found.append(Finding("elastic", Came.OK, f"{id} works under it"))
    return found


def _refusal(error: ClientError, what: str, statement: str) -> tuple[Came, str, str | None]:
    """A statement is missing only where access was denied; a key's state is another matter."""
    said = _said(error)
    is_denial = "AccessDenied" in aws.code_of(error)
    is_ours = "identity-based policy" in said
    if is_denial and is_ours:
        return (
            Came.FAILED,
            f"{what} is refused by our own role's policy ({said}); pulumi up of the tenant mends it",
            None,
        )
    return Came.FAILED, f"{what} is refused: {said}", statement if is_denial else None


def _said(error: ClientError) -> str:
    return f"{aws.code_of(error)} ({error.response.get('Error', {}).get('Message', '').rstrip('.')})"


def _of(statement: str | None) -> str:
    return f" [the statement {statement}]" if statement else ""


def _on(when: object, word: str = " on") -> str:
    return f"{word} {when:%Y-%m-%d}" if isinstance(when, datetime) else ""
