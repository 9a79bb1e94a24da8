"""Clients that cost little a request, and say the same."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import boto3
import botocore
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.utils import parse_timestamp

from migrate import aws

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "said",
    ["Tue, 24 Nov 2026 12:00:00 GMT", "2026-11-24T12:00:00.000Z", "2026-11-24T12:00:00Z", 1795521600, "1795521600"],
)
def test_every_form_of_an_instant_is_read_as_botocore_reads_it(said: Any) -> None:
    assert aws._instant(said) == parse_timestamp(said) == NOON


class Nothing(io.BytesIO):
    def stream(self, *_: Any, **__: Any) -> Any:
        return iter(())


def test_a_client_reads_instants_that_way_and_names_us() -> None:
    session = boto3.Session("an-id", "a-secret", region_name="eu-west-1")
    client = aws.client(session, "s3")
    agents = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        agents.append(request.headers["User-Agent"])
        headers = HTTPHeaders.from_pairs([("Last-Modified", "Tue, 24 Nov 2026 12:00:00 GMT")])
        return AWSResponse(request.url, 200, headers, Nothing())

    client.meta.events.register("before-send.s3", answer)
    factory = session._session.get_component("response_parser_factory")
    assert factory.create_parser("rest-xml")._timestamp_parser is aws._instant
    assert client.head_object(Bucket="a-bucket", Key="k")["LastModified"] == NOON
    assert [agent.decode() for agent in agents] == [f"{aws.USER_AGENT} Botocore/{botocore.__version__}"]
