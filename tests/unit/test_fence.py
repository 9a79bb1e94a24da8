"""The fence before calls to clouds: none leaves a runner that was overtaken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import layouts
import pytest
from botocore.awsrequest import AWSResponse
from elasticsearch import Elasticsearch

from migrate import fence as fences
from migrate.errors import Conflict
from migrate.fence import Fence
from migrate.records import Records
from stacks.record import TENANTS, connect


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    monkeypatch.setattr(fences, "FRESH_SECONDS", 0)
    records = Records(connect(tmp_path))
    records.create(layouts.standard())
    return records


@pytest.fixture
def fence(records: Records) -> Iterator[Fence]:
    with records.lease("acme") as number:
        yield Fence(records, "acme", number)


def overtake(records: Records) -> None:
    with records._engine.begin() as connection:
        connection.execute(TENANTS.update().values(lease_owner="another-host:1", lease_fence=99))


def test_no_request_of_an_overtaken_runner_reaches_aws(fence: Fence, records: Records) -> None:
    client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    sent: list[str] = []

    def answer(request, **_: object) -> AWSResponse:
        sent.append(request.method)
        return AWSResponse(request.url, 204, {}, None)

    fence.before_aws(client)
    client.meta.events.register_last("before-send", answer)
    overtake(records)
    with pytest.raises(Conflict, match="went to another-host:1"):
        client.delete_object(Bucket="b", Key="k", VersionId="v")
    assert sent == []


def test_a_request_under_the_fence_is_sent(fence: Fence) -> None:
    client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    checked: list[None] = []
    check = fence.check
    fence.check = lambda: (checked.append(None), check())[1]  # type: ignore[method-assign]
    fence.before_aws(client)

    class Body:
        def stream(self, **_: object) -> list[bytes]:
            return []

    def answer(request, **_: object) -> AWSResponse:
        return AWSResponse(request.url, 204, {}, Body())

    client.meta.events.register_last("before-send", answer)
    assert client.delete_object(Bucket="b", Key="k", VersionId="v")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert len(checked) == 1


def test_no_request_of_an_overtaken_runner_reaches_the_search(fence: Fence, records: Records) -> None:
    client = Elasticsearch("http://127.0.0.1:9", max_retries=0)
    fence.before_search(client)
    overtake(records)
    for made in (client, client.options(ignore_status=404)):
        with pytest.raises(Conflict, match="went to another-host:1"):
            made.indices.delete(index="records-000001")


def test_a_fresh_look_is_not_repeated_but_one_before_a_long_stop_is(
    fence: Fence, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "FRESH_SECONDS", 1.0)
    fence.check()
    overtake(records)
    fence.check()
    monkeypatch.setattr(fences, "FRESH_SECONDS", 0)  # as if the look were old: the clock runs on in a stopped process
    with pytest.raises(Conflict):
        fence.check()
