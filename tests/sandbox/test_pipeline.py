"""Both ways between a storage and its search on real servers: an edit comes back as a revision; what was lost is found.

One small tenant for the whole file. The edits are written first, because a schedule takes up to a minute to look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from cloud import Cloud, Tenant, records, until
from elasticsearch import ApiError

from migrate import archive
from migrate.copy.s3 import Side

EDITED, GONE, LOST, OLD, DELETED, FORGED = "p001", "p002", "p003", "p004", "p005", "p006"
TICK_SECONDS = 150
DRAIN_SECONDS = 30


@dataclass(frozen=True)
class BothWays:
    tenant: Tenant
    edit: Mapping[str, Any]

    @property
    def side(self) -> Side:
        return self.tenant.storage("s1", "archive")

    def metadata(self, id: str) -> Mapping[str, str]:
        side = self.side
        head = side.s3.head_object(Bucket=side.storage.bucket, Key=side.storage.prefix + key(id))
        return head["Metadata"]

    def document(self, id: str) -> Mapping[str, Any]:
        return dict(self.tenant.search("e1").get(index="records-000001", id=f"people/{id}"))

    def verify(self, command: str = "verify") -> tuple[int, Mapping[str, Any]]:
        done = self.tenant.keyshift(command, "--wait", "0", "--json", check=False)
        return done.code, done.json()


def key(id: str) -> str:
    return f"records/people/{id}.json"


@pytest.fixture(scope="module")
def both(cloud: Cloud) -> Iterator[BothWays]:
    tenant = cloud.tenant("both", records=records(8), attachments={})
    words = ("people", EDITED, "--tag", "legal", "--tag", "Zürich  2", "--note", "see ✓ file", "--legal-hold")
    edit = tenant.keyshift("archive", "edit", *words, "--author", "ada", "--json").json()
    tenant.keyshift("archive", "edit", "people", GONE, "--note", "too late", "--author", "bob")
    archive.delete_record(tenant.storage("s1", "archive"), "people", GONE)
    yield BothWays(tenant, edit)
    tenant.shut_down()


def test_archive_may_add_edits_and_do_nothing_else_to_an_index(both: BothWays) -> None:
    client = both.tenant.search("e1", "archive")
    for attempt in (
        lambda: client.index(index="edits-000001", id=both.edit["edit"], document={"changes": {}}),
        lambda: client.search(index="edits-000001"),
        lambda: client.delete(index="edits-000001", id=both.edit["edit"]),
        lambda: client.create(index="pipeline-000001", id="cursor", document={"seq": 99}),
        lambda: client.create(index="records-000001", id="x", document={}),
    ):
        with pytest.raises(ApiError) as refused:
            attempt()
        assert refused.value.status_code == 403


def test_lost_events_and_a_forged_document_are_found_replayed_and_mended(both: BothWays) -> None:
    tenant, side = both.tenant, both.side
    outputs = tenant.outputs()["pipelines"]["p1"]
    operator = tenant.cloud.client("lambda")
    tenant.wait_until_indexed(7)  # the deleted one is hidden
    _switch(tenant, operator, outputs, is_on=False)
    archive.write_record(side, "people", LOST, {"name": "changed, and its event died"})
    archive.write_record(side, "people", OLD, {"name": "changed, and its event was lost"})
    archive.delete_record(side, "people", DELETED)
    _lose(tenant, outputs, dead=key(LOST), lost=[key(OLD), key(DELETED)])
    forged = both.document(FORGED)
    tenant.search("e1").index(
        index="records-000001",
        id=f"people/{FORGED}",
        document={**forged["_source"], "content_hash": "0" * 64},
        version=forged["_version"],
        version_type="external_gte",
    )
    _switch(tenant, operator, outputs, is_on=True)

    code, found = both.verify()
    assert code == 1
    assert {kind: count for kind, count in found["counts"].items() if count} == {"stale": 2, "altered": 1, "surplus": 1}
    shown = tenant.keyshift("pipeline", "status", "--json").json()["pipelines"][0]
    assert shown["to_search"]["dead_letters"] == 1

    replayed = tenant.keyshift("pipeline", "replay", "--json").json()
    assert replayed["pipelines"] == [{"pipeline": "p1", "replayed": 1, "left": 0}]
    until(lambda: both.document(LOST)["_version"] == 2, "the replayed event to reach the index", DRAIN_SECONDS)
    assert tenant.keyshift("pipeline", "replay", "--json").json()["pipelines"][0]["replayed"] == 0

    code, mended = both.verify("repair")
    assert (code, mended["mended"], mended["left"]) == (0, 3, 0), mended
    assert both.document(FORGED)["_source"] == forged["_source"]
    assert both.document(OLD)["_source"]["data"] == {"name": "changed, and its event was lost"}
    assert both.document(DELETED)["_source"]["deleted"] is True
    assert both.verify() == (0, {**both.verify()[1], "differences": 0})


def _switch(tenant: Tenant, operator: Any, outputs: Mapping[str, Any], *, is_on: bool) -> None:
    operator.update_event_source_mapping(UUID=outputs["mapping_id"], Enabled=is_on)
    wanted = "Enabled" if is_on else "Disabled"
    state = lambda: operator.get_event_source_mapping(UUID=outputs["mapping_id"])["State"] == wanted  # noqa: E731
    until(state, f"the mapping to be {wanted}", DRAIN_SECONDS)


def _lose(tenant: Tenant, outputs: Mapping[str, Any], *, dead: str, lost: list[str]) -> None:
    """Take events out of the queue: one becomes a dead letter, the others are lost."""
    sqs, missing = tenant.cloud.client("sqs"), {dead, *lost}

    def all_gone() -> bool:
        received = sqs.receive_message(QueueUrl=outputs["queue_url"], MaxNumberOfMessages=10)
        for message in received.get("Messages", []):
            name = json.loads(message["Body"]).get("detail", {}).get("object", {}).get("key", "")
            below = name.partition(f"t/{tenant.name}/")[2]
            if below == dead:
                sqs.send_message(QueueUrl=outputs["dlq_url"], MessageBody=message["Body"])
            if below in missing:
                missing.remove(below)
                sqs.delete_message(QueueUrl=outputs["queue_url"], ReceiptHandle=message["ReceiptHandle"])
        return not missing

    until(all_gone, lambda: f"the events of {missing}", DRAIN_SECONDS)


def test_an_edit_reaches_the_object_and_returns_as_a_higher_revision(both: BothWays) -> None:
    until(lambda: both.document(EDITED)["_version"] == 2, "the edit to come back", TICK_SECONDS)
    metadata = both.metadata(EDITED)
    assert (metadata["revision"], metadata["content-revision"]) == ("2", "1"), "the bucket assigns the revision"
    source = both.document(EDITED)["_source"]
    assert (source["tags"], source["note"], source["legal_hold"]) == (["legal", "Zürich  2"], "see ✓ file", True)
    assert source["revision"] == 2
    assert both.tenant.keyshift("search", "legal", "--json").json()["total"] == 1

    archive.write_record(both.side, "people", EDITED, {"name": "archived again"})
    until(lambda: both.document(EDITED)["_version"] == 3, "the next revision", DRAIN_SECONDS)
    assert both.document(EDITED)["_source"]["tags"] == ["legal", "Zürich  2"], "an archive run keeps what people added"


def test_an_edit_of_a_deleted_record_is_refused_and_told(both: BothWays) -> None:
    def told() -> Mapping[str, Any] | None:
        way = both.tenant.keyshift("pipeline", "status", "--json").json()["pipelines"][0]["to_bucket"]
        return way if way["unapplied"] == 0 else None

    way = until(told, "both edits to be settled", TICK_SECONDS, every=1)
    assert way["settled"] == {"applied": 1, "unchanged": 0, "refused": 1, "overrode": 0}
    assert [(one["key"], one["author"]) for one in way["told"]] == [(key(GONE), "bob")]
    assert way["told"][0]["reason"].startswith("deleted")
    shown = both.tenant.keyshift("pipeline", "status").out
    assert "1 refused" in shown
    assert "edited by bob" in shown


def test_the_stack_shows_no_change_after_all_that(both: BothWays) -> None:
    both.tenant.pulumi("preview", "--expect-no-changes")
