"""The looks themselves: DescribeKey and the canary, both as the tenant's runner, which no seal shuts out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from migrate import aws
from migrate.denials import Estate
from migrate.watching.findings import Described, Finding, Heard, Known, Looks, Subject, classify
from stacks.layout import Key, KeyState, Layout

CANARY_AMONG = 100
"""Of so many listed objects the smallest is read: S3 decrypts nothing before it has asked KMS."""
THE_KEY = "key"
_NO_ANSWER = (boto.ConnectionError, boto.HTTPClientError)


def watched_keys(layout: Layout) -> list[Key]:
    """Keys under which data is meant to be readable; one that we revoked is no longer the customer's to lose."""
    return [key for key in layout.keys if key.state is KeyState.ACTIVE]


def observe(estate: Callable[[], Estate], layout: Layout, known: Mapping[str, Known]) -> list[Finding]:
    """A finding for each key in use. Never raises for what a cloud answers, or does not answer.

    `known`: what each key was when it was last whole; what the layout itself holds of a key goes before it.
    """
    now = datetime.now(UTC)

    found = []
    for key in watched_keys(layout):
        held = _known(key, known)
        subject = Subject(tenant=layout.tenant, key=key.id, serves=key.id in _serving(layout))
        try:
            looks = _look(estate(), key)
        except Exception as error:  # noqa: BLE001 - what cannot be looked at hides no other key or tenant
            said = heard(error)
            looks = Looks(described=Described(said), canary=said, canary_of="")
        found.append(classify(subject, looks, held, now))
    return found


def _serving(layout: Layout) -> set[str | None]:
    """The keys under which that lies which Archive reads; the other ones only delay a move when they are lost."""
    serves = layout.serves
    return {layout.storage(serves.storage).key, layout.search(serves.search).key} if serves else set()


def _known(key: Key, known: Mapping[str, Known]) -> Known:
    """The layout knows what a customer's key was when it was taken into use; of an imported one only a look does."""
    seen = known.get(key.id, Known())
    return Known(key.arn or seen.arn, key.material or seen.material, seen.valid_to)


def _look(estate: Estate, key: Key) -> Looks:
    described = describe(estate, key)
    answer, canary_of = canary(estate, key)
    return Looks(described=described, canary=answer, canary_of=canary_of)


def describe(estate: Estate, key: Key) -> Described:
    """DescribeKey on what the customer gave: works on a key in any state, and follows an alias that was moved."""
    kms = estate.client("kms", "runner")
    asked = key.alias or estate.key_arn(key.id)
    try:
        found = kms.describe_key(KeyId=asked)["KeyMetadata"]
    except (ClientError, BotoCoreError) as error:
        return Described(heard(error))
    return Described(
        Heard(),
        arn=found["Arn"],
        state=found["KeyState"],
        material=found.get("CurrentKeyMaterialId", ""),
        valid_to=found.get("ValidTo"),
    )


def canary(estate: Estate, key: Key) -> tuple[Heard, str]:
    """Reads the beginning of an object that lies under the key; uses the key itself where there is none.

    An object of the storage that serves, else of another one under the key. What cannot be told apart from
    a fault of ours is never a refusal.
    """
    serving = estate.layout.serves.storage if estate.layout.serves else None
    storages = sorted(estate.layout.storages, key=lambda unit: unit.id != serving)
    for storage in (unit.id for unit in storages if unit.key == key.id):
        try:
            name = _small_object(estate, storage)
        except (ClientError, BotoCoreError) as error:
            return heard(error), storage
        if name is not None:
            return _read(estate, storage, name), f"{storage}: {name}"
    return _use(estate, key), THE_KEY


def _small_object(estate: Estate, storage: str) -> str | None:
    side = estate.side(storage, "runner")
    ask = {"Bucket": side.storage.bucket, "Prefix": side.storage.prefix, "MaxKeys": CANARY_AMONG}
    listed = side.s3.list_objects_v2(**ask).get("Contents", [])
    return min(listed, key=lambda one: one["Size"])["Key"] if listed else None


def _read(estate: Estate, storage: str, name: str) -> Heard:
    side = estate.side(storage, "runner")

    def get() -> None:
        with contextlib.closing(side.s3.get_object(Bucket=side.storage.bucket, Key=name)["Body"]) as body:
            body.read(1)

    return _heard_of(get)


def _use(estate: Estate, key: Key) -> Heard:
    kms, arn = estate.client("kms", "runner"), estate.key_arn(key.id)

    def use() -> None:
        made = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
        kms.decrypt(KeyId=arn, CiphertextBlob=made["CiphertextBlob"])

    return _heard_of(use)


def _heard_of(call: Callable[[], Any]) -> Heard:
    try:
        call()
    except (ClientError, BotoCoreError) as error:
        return heard(error)
    return Heard()


def heard(error: Exception) -> Heard:
    """The error as plain data. No answer at all is the network's, credentials that were not found are ours."""
    if isinstance(error, ClientError):
        said = error.response.get("Error", {})
        return Heard(
            code=aws.code_of(error) or str(aws.status_of(error)),
            message=str(said.get("Message", "")),
            operation=error.operation_name,
            status=aws.status_of(error),
        )
    if isinstance(error, _NO_ANSWER):
        return Heard(code=type(error).__name__, network=True)
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)):
        return Heard(code="NoCredentials", operation="AssumeRole")
    return Heard(code=type(error).__name__)
