"""Is it really closed? Every path to a tenant's data, tried as who would use it, until each is refused.

Only a refusal counts: a timeout, a missing object or a role that could not be assumed proves nothing.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from botocore.exceptions import BotoCoreError, ClientError
from elastic_transport import TransportError
from elasticsearch import ApiError

from components import naming
from components.index import INDEX, READ_ALIAS
from components.worker.document import document_id
from migrate import aws
from migrate.copy.s3 import delete_version
from migrate.copy.settle import PROBES
from migrate.denials import Estate, is_locked
from migrate.errors import KeyshiftError
from migrate.progress import Progress, Report
from stacks.layout import Pipeline

POLL_SECONDS = 0.5
URL_SECONDS = 3600
URL_TIMEOUT = 30
SEARCHABLE = ("records/", "attachments/")
REFUSED_CODES = frozenset({"AccessDenied", "AccessDeniedException", "403"})

BY_POLICY = "seconds, sometimes minutes (IAM and KMS are eventually consistent)"
BY_CREDENTIALS = "at once (credentials); by the lost key alone up to 30 minutes (Elastic)"


@dataclass(frozen=True)
class Answer:
    """What one attempt came to. `said`: the code of the refusal, or what was answered instead."""

    refused: bool
    said: str


@dataclass(frozen=True)
class Path:
    """One way to the data. `bound`: how long its closing may take, by the documents."""

    name: str
    role: str
    unit: str
    attempt: Callable[[], Answer]
    bound: str


@dataclass(frozen=True)
class Seen:
    """`after`: seconds from the seal to the first of the refusals that lasted; None if it still stands open."""

    name: str
    role: str
    unit: str
    after: float | None
    said: str
    bound: str


def until_refused(paths: list[Path], began: float, limit: float, report: Report) -> list[Seen]:
    """Tries all paths until each was refused twice in a row, or `limit` seconds are over.

    `began` is when the seal began, on the monotonic clock. Twice, because the front ends of a service do
    not learn of a denial at the same time.
    """
    seen: dict[int, Seen] = {}
    first: dict[int, float] = {}
    while len(seen) < len(paths):
        for number, path in enumerate(paths):
            if number in seen:
                continue
            answer = path.attempt()
            now = time.monotonic() - began
            if not answer.refused:
                first.pop(number, None)
                if now > limit:
                    seen[number] = _seen(path, None, answer.said)
            elif number in first:
                seen[number] = _seen(path, first[number], answer.said)
            else:
                first[number] = now
        report(Progress(move="probe", objects=len(seen), objects_total=len(paths), waiting="every path to be refused"))
        if len(seen) < len(paths):
            time.sleep(POLL_SECONDS)
    return [seen[number] for number in range(len(paths))]


def _seen(path: Path, after: float | None, said: str) -> Seen:
    return Seen(path.name, path.role, path.unit, None if after is None else round(after, 1), said, path.bound)


# the paths ------------------------------------------------------------------------------------


def sample(estate: Estate, storage: str) -> str | None:
    """The key of an object that is there, by a listing of the runner; None in an empty storage."""
    side = estate.side(storage, "runner")
    for below in SEARCHABLE:
        ask = {"Bucket": side.storage.bucket, "Prefix": side.storage.prefix + below, "MaxKeys": 1}
        for found in side.s3.list_objects_v2(**ask).get("Contents", []):
            return found["Key"].removeprefix(side.storage.prefix)
    return None


def samples(estate: Estate) -> dict[str, str]:
    """Storage -> an object of it, where there is one."""
    found = {}
    for unit in estate.layout.storages:
        with contextlib.suppress(ClientError, BotoCoreError):  # a bucket that was never made: nothing to read there
            if key := sample(estate, unit.id):
                found[unit.id] = key
    return found


def presigned(estate: Estate, found: dict[str, str]) -> dict[str, str]:
    """Storage -> a URL to its sample, signed as Archive. Made before the seal it shows that old ones die too."""
    urls = {}
    for storage, key in found.items():
        side = estate.side(storage, "archive")
        parameters = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + key}
        urls[storage] = side.s3.generate_presigned_url("get_object", Params=parameters, ExpiresIn=URL_SECONDS)
    return urls


def paths(estate: Estate, found: dict[str, str], urls: dict[str, str]) -> list[Path]:
    """Every way in: objects as Archive, the worker as itself, the search with each credential."""
    layout = estate.layout
    return [
        *(path for unit in layout.storages for path in _objects(estate, unit.id, found.get(unit.id), urls)),
        *(_worker(estate, unit, found.get(unit.storage)) for unit in layout.pipelines),
        *(path for unit in layout.searches for path in _search(estate, unit.id, _of_search(estate, unit.id, found))),
    ]


def _of_search(estate: Estate, search: str, found: dict[str, str]) -> str | None:
    feeding = [unit.storage for unit in estate.layout.pipelines if unit.search == search]
    return next((found[storage] for storage in feeding if storage in found), None)


def _objects(estate: Estate, storage: str, key: str | None, urls: dict[str, str]) -> Iterator[Path]:
    side, cleaner = estate.side(storage, "archive"), estate.side(storage, "runner")
    bucket, prefix, s3 = side.storage.bucket, side.storage.prefix, side.s3

    def path(name: str, attempt: Callable[[], Answer]) -> Path:
        return Path(name, "archive", storage, attempt, BY_POLICY)

    def writing(call: Callable[..., Any], **parameters: Any) -> Callable[[], Answer]:
        def write() -> None:
            probe = PROBES + secrets.token_hex(16)
            answer = call(Bucket=bucket, Key=prefix + probe, **parameters)
            delete_version(cleaner, probe, answer.get("VersionId", "null"))

        return lambda: _of_aws(write)

    if key is not None:
        place = {"Bucket": bucket, "Key": prefix + key}

        def get() -> None:
            s3.get_object(**place)["Body"].close()

        yield path("GET", lambda: _of_aws(get))
        yield path("HEAD", lambda: _of_aws(lambda: s3.head_object(**place)))
        yield path("COPY", writing(s3.copy_object, CopySource=place))
        if storage in urls:
            yield path("presigned URL", lambda: _of_url(urls[storage]))
    yield path("PUT", writing(s3.put_object, Body=b""))
    yield path("LIST", lambda: _of_aws(lambda: s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)))


def _worker(estate: Estate, unit: Pipeline, key: str | None) -> Path:
    """The worker itself, called with an event: nobody but Lambda may take its role."""
    storage, function = estate.storage(unit.storage), naming.pipeline(estate.layout.tenant, unit.id)
    name = storage.prefix + (key or f"{SEARCHABLE[0]}.keyshift/probe.json")
    detail = {"bucket": {"name": storage.bucket}, "object": {"key": name}}
    body = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
    message = {"messageId": "probe", "receiptHandle": "none", "attributes": {"ApproximateReceiveCount": "1"}}
    event = json.dumps({"Records": [{**message, "body": json.dumps(body)}]})
    lambda_ = estate.client("lambda")

    def attempt() -> Answer:
        try:
            answered = lambda_.invoke(FunctionName=function, Payload=event.encode())
        except ClientError as error:
            return Answer(aws.code_of(error) == "ResourceNotFoundException", aws.code_of(error))
        said = answered["Payload"].read().decode(errors="replace")
        refusal = next((code for code in ("AccessDenied", "KMS.", "not authorized") if code in said), None)
        if "FunctionError" in answered and refusal:
            return Answer(refused=True, said=refusal.rstrip("."))
        return Answer(refused=False, said="FunctionError" if "FunctionError" in answered else "200")

    return Path("worker reads", "pipeline", unit.id, attempt, BY_POLICY)


def _search(estate: Estate, search: str, key: str | None) -> Iterator[Path]:
    def path(name: str, role: str, call: Callable[[Any], Any]) -> Path:
        return Path(
            name, role, search, lambda: _of_search_call(lambda: call(estate.search(search, role))), BY_CREDENTIALS
        )

    yield path("search by the alias", "archive", lambda client: client.search(index=READ_ALIAS, size=1))
    yield path("search the index", "pipeline", lambda client: client.search(index=INDEX, size=1))
    if key is not None:
        id = document_id(key)
        yield path("get by id", "archive", lambda client: client.get(index=READ_ALIAS, id=id))
        yield path("get by id", "pipeline", lambda client: client.get(index=INDEX, id=id))
    secret = naming.secret(estate.layout.tenant, search, "archive")
    secrets_manager = estate.client("secretsmanager", "archive")
    yield Path(
        "read the credentials",
        "archive",
        search,
        lambda: _of_aws(lambda: secrets_manager.get_secret_value(SecretId=secret)),
        BY_POLICY,
    )


# what an answer means -------------------------------------------------------------------------


def _of_aws(call: Callable[[], Any]) -> Answer:
    try:
        call()
    except ClientError as error:
        code = aws.code_of(error)
        # A role that could not even be assumed says nothing about what its holders may do.
        is_denied = error.operation_name != "AssumeRole" and (code in REFUSED_CODES or aws.is_about_a_key(error))
        return Answer(is_denied or code == "NoSuchBucket", code)
    except BotoCoreError as error:
        return Answer(refused=False, said=type(error).__name__)
    return Answer(refused=False, said="200")


def _of_url(url: str) -> Answer:
    try:
        with urlopen(url, timeout=URL_TIMEOUT) as answer:  # noqa: S310 - the URL is our own, signed a moment ago
            return Answer(refused=False, said=str(answer.status))
    except HTTPError as error:
        with error:
            return Answer(error.code == HTTPStatus.FORBIDDEN or b"<Code>KMS." in error.read(), str(error.code))
    except (URLError, OSError) as error:
        return Answer(refused=False, said=type(error).__name__)


def _of_search_call(call: Callable[[], Any]) -> Answer:
    try:
        call()
    except ApiError as error:
        code = error.meta.status
        return Answer(code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or is_locked(error), str(code))
    except TransportError as error:
        return Answer(refused=False, said=type(error).__name__)
    except KeyshiftError as error:  # its secret cannot be read, by the runner: it does not exist
        return Answer(getattr(error, "cloud_code", "") == "ResourceNotFoundException", error.code)
    return Answer(refused=False, said="200")
