"""Reading the bytes of one version, again from its beginning where they break off on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, TypeVar

import stamina
from botocore.exceptions import (
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from migrate.copy.s3 import Side, called

Made = TypeVar("Made")
ATTEMPTS = 4
BROKEN_OFF = (IncompleteReadError, ResponseStreamingError, ReadTimeoutError, ConnectionClosedError)
"""What boto3 raises while a body is read. Its own retries end with the headers: the bytes are the caller's."""


def read_version(side: Side, key: str, version_id: str, make: Callable[[Mapping[str, Any]], Made]) -> Made:
    """What `make` makes of GetObject's answer, whose `Body` it reads to the end.

    `make` is called anew for each attempt. Raises CloudError for a refusal, boto3's own error once the body has
    broken off `ATTEMPTS` times.
    """
    place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + key, "VersionId": version_id}
    for attempt in stamina.retry_context(on=BROKEN_OFF, attempts=ATTEMPTS):
        with attempt:
            answer = called(f"reading {side.storage}{key}", side.s3.get_object, **place)
            with closing(answer["Body"]):
                return make(answer)
    raise AssertionError("a retry context either returns or raises")
