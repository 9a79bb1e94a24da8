"""Bytes that break off on the way are read again from their beginning."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import stamina
from botocore.exceptions import IncompleteReadError, ResponseStreamingError
from botocore.response import StreamingBody
from fake_s3 import FakeS3, put, two_storages

from migrate.copy.reading import ATTEMPTS
from migrate.copy.verify import hash_of
from migrate.errors import CloudError

BODY = b"body" * 1000


@pytest.fixture(autouse=True)
def _hurried():
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


class _Reset:
    def read(self, *_: Any) -> bytes:
        raise ResponseStreamingError(error="connection reset")

    def close(self) -> None:
        """There is nothing to close."""


def cut() -> StreamingBody:
    return StreamingBody(io.BytesIO(BODY[: len(BODY) // 2]), len(BODY))


def reset() -> Any:
    return StreamingBody(_Reset(), len(BODY))


def breaking_off(s3: FakeS3, body: Callable[[], Any], times: int) -> list[str]:
    """S3 whose next bodies break off; what was asked for so far."""
    asked: list[str] = []
    real = s3._do_get_object

    def get(**parameters: Any) -> dict[str, Any]:
        asked.append(parameters["Key"])
        return {**real(**parameters), **({"Body": body()} if len(asked) <= times else {})}

    s3._do_get_object = get
    return asked


@pytest.mark.parametrize("body", [cut, reset])
def test_a_body_that_breaks_off_is_read_again_and_its_hash_is_of_the_whole(body: Callable[[], Any]) -> None:
    s3, source, _ = two_storages()
    version = put(s3, "k", BODY)
    asked = breaking_off(s3, body, times=ATTEMPTS - 1)
    assert hash_of(source, "k", version) == f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    assert len(asked) == ATTEMPTS


def test_a_body_that_always_breaks_off_ends_in_an_error_and_never_in_the_hash_of_a_part() -> None:
    s3, source, _ = two_storages()
    version = put(s3, "k", BODY)
    breaking_off(s3, cut, times=100)
    with pytest.raises(IncompleteReadError):
        hash_of(source, "k", version)


def test_a_refusal_is_not_asked_for_again() -> None:
    s3, source, _ = two_storages()
    asked = breaking_off(s3, cut, times=0)
    with pytest.raises(CloudError):
        hash_of(source, "missing", "v")
    assert len(asked) == 1
