"""What an operator asks of the pipelines: replay, comparison, repair; and objects that are annotated in a real shape."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fake_s3 import SOURCE, FakeS3, delete, error, put, two_storages
from fake_sqs import FakeSqs
from layouts import standard
from test_fill import FakeSearch
from test_worker_edits import Log

from components.worker.document import Document
from components.worker.elastic import SearchError, Stored, Written
from migrate import pipeline, repair
from migrate.archive import delete_record, read, write_record
from migrate.aws_cloud import AwsCloud
from migrate.copy.s3 import Side
from migrate.errors import CloudError, Conflict, KeyUnavailable, RefusedInput, VerificationFailed
from migrate.log import Log as TenantLog
from migrate.operations import OperationKind
from migrate.pipeline import objects_of, told
from migrate.progress import unwatched
from migrate.records import Records
from migrate.repair import Sides, compare, mend
from migrate.seals import Seals
from migrate.stack import Project
from stacks.layout import PipelineState, Serves
from stacks.record import connect

KEY = "records/people/1.json"
ATTACHED = {"revision": "1", "archived-at": "2026-01-01T00:00:00.000Z"}


# objects ---------------------------------------------------------------------------------------


@pytest.fixture
def side() -> Side:
    return two_storages()[1]


def s3_of(side: Side) -> FakeS3:
    return side.s3  # pyright: ignore[reportReturnType]


def test_an_annotated_object_keeps_bytes_tags_headers_and_its_older_versions(side):
    s3 = s3_of(side)
    s3.page = 100
    put(s3, "attachments/a", b"bytes", Metadata=ATTACHED, ContentType="text/plain", CacheControl="no-store")
    version = s3.current(SOURCE.bucket, SOURCE.prefix + "attachments/a")
    version.tags = {"of": "the customer"}
    version.headers["ExpiresString"] = "Thu, 01 Jan 2026 00:00:00 GMT"
    held = objects_of(side).held("attachments/a")
    assert objects_of(side).annotate("attachments/a", held, {**held.metadata, "revision": "2"})
    now = s3.current(SOURCE.bucket, SOURCE.prefix + "attachments/a")
    assert (now.body, now.tags, now.headers) == (version.body, version.tags, version.headers)
    assert now.metadata == {**ATTACHED, "revision": "2"}
    assert len(s3.versions[SOURCE.bucket, SOURCE.prefix + "attachments/a"]) == 2


def test_an_object_that_changed_or_went_is_not_annotated(side):
    s3 = s3_of(side)
    objects = objects_of(side)
    put(s3, "attachments/a", b"1", Metadata=ATTACHED)
    held = objects.held("attachments/a")
    put(s3, "attachments/a", b"2", Metadata={**ATTACHED, "revision": "2"})
    assert objects.annotate("attachments/a", held, {"revision": "9"}) is False
    held = objects.held("attachments/a")
    delete(s3, "attachments/a")
    assert objects.annotate("attachments/a", held, {"revision": "9"}) is False
    assert objects.held("attachments/a") is None
    assert objects.held("attachments/" + "x" * 1024) is None, "S3 would answer 400 for ever"


def test_what_people_added_outlives_the_next_archive_run_and_dies_with_the_record(side):
    write_record(side, "people", "1", {"name": "a"})
    held = objects_of(side).held(KEY)
    more = {"annotations": '{"note":["x",2]}', "edited": "e1:1:0:", "revision": "2", "content-revision": "1"}
    objects_of(side).annotate(KEY, held, {**held.metadata, **more})
    assert write_record(side, "people", "1", {"name": "a"}).outcome == "unchanged"
    assert write_record(side, "people", "1", {"name": "b"}).revision == 3
    metadata = objects_of(side).held(KEY).metadata
    assert (metadata["annotations"], metadata["edited"]) == (more["annotations"], more["edited"])
    assert "content-revision" not in metadata, "the bytes are of this revision again"
    delete_record(side, "people", "1")
    write_record(side, "people", "1", {"name": "c"})
    assert "annotations" not in objects_of(side).held(KEY).metadata
    assert json.loads(read(side, KEY))["revision"] == 4


# dead letters ----------------------------------------------------------------------------------


@dataclass
class Tenant:
    """As much of `Live` as a replay needs."""

    sqs: FakeSqs
    layout: Any
    outputs: dict[str, Any] = field(
        default_factory=lambda: {"pipelines": {"p1": {"queue_url": "queue", "dlq_url": "letters"}}}
    )

    def client(self, role: str, service: str) -> FakeSqs:
        assert (role, service) == ("runner", "sqs")
        return self.sqs

    @property
    def cloud(self) -> AwsCloud:
        return AwsCloud(self)


@pytest.fixture
def tenant() -> Tenant:
    return Tenant(FakeSqs(), standard())


def test_a_replay_gives_every_letter_back_once_and_a_second_one_finds_none(tenant):
    tenant.sqs.queues["letters"] = [f"letter {n}" for n in range(25)]
    assert [(r.replayed, r.left) for r in pipeline.replay(tenant, 100)] == [(25, 0)]
    assert sorted(tenant.sqs.queues["queue"]) == sorted(f"letter {n}" for n in range(25))
    assert [(r.replayed, r.left) for r in pipeline.replay(tenant, 100)] == [(0, 0)]


def test_a_replay_is_bounded_by_its_limit_and_by_what_was_there(tenant):
    tenant.sqs.queues["letters"] = [f"letter {n}" for n in range(12)]
    assert [(r.replayed, r.left) for r in pipeline.replay(tenant, 5)] == [(5, 7)]
    send = tenant.sqs.send_message

    def dies_again(QueueUrl: str, MessageBody: str) -> Any:  # noqa: N803 - as AWS names them
        tenant.sqs.queues["letters"].append(MessageBody)
        return send(QueueUrl=QueueUrl, MessageBody=MessageBody)

    tenant.sqs.send_message = dies_again
    assert [(r.replayed, r.left) for r in pipeline.replay(tenant, 100)] == [(7, 7)], "poison is not replayed for ever"


def test_a_replay_that_is_cut_off_loses_no_letter(tenant):
    tenant.sqs.queues["letters"] = ["one", "two"]

    def cut(**_: Any) -> None:
        raise KeyboardInterrupt

    tenant.sqs.delete_message, delete_ = cut, tenant.sqs.delete_message
    with pytest.raises(KeyboardInterrupt):
        pipeline.replay(tenant, 100)
    tenant.sqs.delete_message = delete_
    tenant.sqs.time_out()
    pipeline.replay(tenant, 100)
    assert set(tenant.sqs.queues["queue"]) == {"one", "two"}
    assert tenant.sqs.queues["letters"] == []


def test_a_detached_pipeline_is_left_alone(tenant):
    unit = tenant.layout.pipelines[0].model_copy(update={"state": PipelineState.DETACHED})
    tenant.layout = tenant.layout.model_copy(update={"pipelines": (unit,)})
    tenant.sqs.queues["letters"] = ["one"]
    assert pipeline.replay(tenant, 100) == []
    assert tenant.sqs.queues["letters"] == ["one"]


# the last edits --------------------------------------------------------------------------------


class Indices:
    """What a freeze does to the index of edits, and whether it is there."""

    def __init__(self, log: Log, *, is_there: bool = True) -> None:
        self.indices, self.log, self.is_there, self.blocks = self, log, is_there, []

    def exists(self, index: str) -> bool:
        return self.is_there

    def add_block(self, index: str, block: str) -> None:
        self.blocks.append((index, block))
        self.log.add = self._refuse  # pyright: ignore[reportAttributeAccessIssue]

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise AssertionError("an edit past the block")


@dataclass
class Moved:
    """As much of `Live` as the last edits of a search need: e2 serves, e1 goes."""

    side: Side
    indices: Indices
    serves: Any = field(default_factory=lambda: Serves(storage="s1", search="e2", pipeline="p2"))

    def search(self, id: str) -> Indices:
        assert id in {"e1", "e2"}
        return self.indices

    def storage(self, id: str) -> Side:
        assert id == "s1"
        return self.side


def test_what_is_left_of_a_search_that_goes_reaches_the_storage_first(side, monkeypatch):
    s3_of(side).page = 100
    write_record(side, "people", "1", {"name": "a"})
    log = Log()
    log.add(KEY, {"note": "the last one"})
    log.add("records/people/gone.json", {"note": "too late"}, author="bob")
    monkeypatch.setattr(pipeline, "edits_of", lambda _live, _search: log)
    live = Moved(side, Indices(log))
    found = pipeline.take_in_last(live, "e1")  # pyright: ignore[reportArgumentType]
    assert found["edits"] == {"applied": 1, "refused": 1}
    assert [one["reason"][:7] for one in found["told"]] == ["deleted"]
    assert "too late" not in json.dumps(found), "what an edit says is the customer's"
    assert live.indices.blocks == [("edits-000001", "write")]
    assert objects_of(side).held(KEY).metadata["revision"] == "2"
    assert pipeline.take_in_last(live, "e1")["edits"] == {}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("search", "is_there"), [("e2", True), ("e1", False)])
def test_a_search_that_serves_or_that_is_gone_already_is_not_closed(side, search, is_there):
    live = Moved(side, Indices(Log(), is_there=is_there))
    assert pipeline.take_in_last(live, search) == {}  # pyright: ignore[reportArgumentType]
    assert live.indices.blocks == []


# edits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "jobs", "code"),
    [({}, "open", "edit"), ({"note": 7}, "open", "edit"), ({"note": "x"}, "closed", "jobs-closed")],
)
def test_an_edit_that_could_not_be_applied_is_refused_before_anything_is_asked(changes, jobs, code):
    layout = standard()
    layout = layout.model_copy(update={"gate": layout.gate.model_copy(update={"jobs": jobs, "reason": "final copy"})})

    class Untouched:
        serves = layout.serves
        outputs = {}  # noqa: RUF012 - nothing may be looked up

    live = Untouched()
    live.layout = layout  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RefusedInput) as refused:
        pipeline.edit(live, "people", "1", changes, "ada")  # pyright: ignore[reportArgumentType]
    assert refused.value.code == code


@pytest.mark.parametrize(("status", "code"), [(0, "unreachable"), (403, "cloud")])
def test_what_a_search_refuses_is_told_in_words(status, code):
    with pytest.raises(CloudError, match="asking e1") as raised, told("asking e1"):
        raise SearchError("refused", status=status)
    assert raised.value.code == code
    assert raised.value.hint


def test_a_lost_key_met_by_the_workers_code_is_told_as_one():
    disabled = error("KMS.DisabledException", 400, "the key is disabled")
    with pytest.raises(KeyUnavailable, match="taking in the edits of e1"), told("taking in the edits of e1"):
        raise disabled


# comparison and repair -------------------------------------------------------------------------


class Search(FakeSearch):
    """Also what a second look reads."""

    def mget(self, index: str, ids: list[str], source: Any = None, source_includes: Any = None) -> dict[str, Any]:
        found = [(id, self.documents.get(id)) for id in ids]
        return {
            "docs": [
                {"_id": i, "found": bool(h), **({"_version": h[0], "_source": h[1]} if h else {})} for i, h in found
            ]
        }


@dataclass
class Elastic:
    """The worker's way into the same documents."""

    search: Search

    def write(self, documents: list[Document], *, or_equal: bool = False) -> list[Written]:
        return [self._one(one, or_equal or one.is_tombstone) for one in documents]

    def _one(self, one: Document, may_equal: bool) -> Written:
        held = self.search.documents.get(one.id, (0, {}))[0]
        if one.revision < held or (one.revision == held and not may_equal):
            return Written(409, "version conflict")
        self.search.documents[one.id] = (one.revision, dict(one.source))
        return Written(200, "")

    def stored(self, ids: Any) -> dict[str, Stored]:
        held = self.search.documents
        return {id: Stored(held[id][0], held[id][1].get("deleted") is True) for id in ids if id in held}


@pytest.fixture
def sides(side: Side) -> Sides:
    s3_of(side).page = 100
    for id in "1234":
        write_record(side, "people", id, {"name": id})
    put(s3_of(side), "attachments/a", b"bytes", Metadata=ATTACHED)
    search = Search()
    made = Sides(side, search, Elastic(search))  # pyright: ignore[reportArgumentType]
    assert made.worker.bring_up_to_date([KEY, *(f"records/people/{n}.json" for n in "234"), "attachments/a"]) == {}
    return made


def documents(sides: Sides) -> dict[str, Any]:
    return sides.search.documents  # pyright: ignore[reportAttributeAccessIssue]


def kinds(sides: Sides) -> dict[str, str]:
    return {one.key or one.id: one.kind for one in compare(sides, 0.0).differences}


def test_an_index_that_is_what_the_storage_says_has_no_difference(sides):
    found = compare(sides, 0.0)
    assert (found.objects, found.documents, found.differences) == (5, 5, ())


def test_every_kind_of_difference_is_found_and_what_can_be_mended_is(sides):
    held = documents(sides)
    del held["people/1"]
    write_record(sides.side, "people", "2", {"name": "newer"})
    held["people/3"] = (1, {**held["people/3"][1], "content_hash": "0" * 64})
    delete_record(sides.side, "people", "4")
    held["attachments/a"] = (9, held["attachments/a"][1])
    held["nobody's"] = (3, {"deleted": False})
    put(s3_of(sides.side), "attachments/odd", b"x", Metadata={"revision": "none"})
    assert kinds(sides) == {
        KEY: "missing",
        "records/people/2.json": "stale",
        "records/people/3.json": "altered",
        "records/people/4.json": "surplus",
        "attachments/a": "ahead",
        "nobody's": "surplus",
        "attachments/odd": "unreadable",
    }
    before = {key: list(versions) for key, versions in s3_of(sides.side).versions.items()}
    left = mend(sides, compare(sides, 0.0).differences)
    assert {one.key: one.reason[:9] for one in left} == {"attachments/a": "the index", "attachments/odd": "'attachme"}
    assert kinds(sides) == {"attachments/a": "ahead", "attachments/odd": "unreadable"}
    assert held["people/4"] == (1, {"deleted": True, "revision": 1})
    assert held["nobody's"][1]["deleted"] is True
    assert s3_of(sides.side).versions == before, "a repair changes the index and never the storage"


def test_a_document_that_cannot_be_made_stays_a_difference_with_its_reason(sides):
    put(s3_of(sides.side), "records/people/5.json", b"not json", Metadata={**ATTACHED, "type": "people", "id": "5"})
    (left,) = mend(sides, compare(sides, 0.0).differences)
    assert (left.kind, left.key) == ("missing", "records/people/5.json")
    assert "is not JSON" in left.reason


def test_what_was_only_under_way_is_no_difference(sides):
    write_record(sides.side, "people", "2", {"name": "newer"})
    waited = []

    def arrives(progress: Any) -> None:
        if progress.waiting:
            waited.append(progress.waiting)
            sides.worker.bring_up_to_date(["records/people/2.json"])

    assert compare(replace(sides, report=arrives), 5.0).differences == ()
    assert waited == ["1 differences that may be under way"]


def test_a_runner_that_was_overtaken_mends_nothing(sides):
    documents(sides).clear()

    def overtaken() -> None:
        raise Conflict("somebody else acts")

    with pytest.raises(Conflict):
        mend(sides, compare(sides, 0.0).differences, overtaken)
    assert documents(sides) == {}


def test_a_comparison_of_nothing_proves_nothing(sides):
    documents(sides).clear()
    s3_of(sides.side).versions.clear()
    with pytest.raises(VerificationFailed, match="nothing to compare"):
        compare(sides, 0.0)
    assert repair.KINDS


# a tenant's repair ------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    Records(connect(tmp_path)).create(standard())
    return Project(root=tmp_path, home=tmp_path)


@pytest.fixture
def found(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> Sides:
    """The tenant's two sides, without a cloud to find them in."""

    @dataclass(frozen=True)
    class Alive:
        layout: Any
        fence: Any = None
        serves: Any = field(default_factory=lambda: standard().serves)

    monkeypatch.setattr(repair.Live, "find", lambda *_: Alive(standard()))
    monkeypatch.setattr(repair, "_sides", lambda _live, report: replace(sides, report=report))
    return sides


def test_a_repair_mends_under_the_lease_tells_each_difference_and_leaves_a_line_in_the_log(project, found):
    del documents(found)["people/1"]
    told = repair.repair(project, "acme", 0.0, unwatched)
    assert (told["differences"], told["mended"], told["left"]) == (1, 1, 0)
    assert [(one["kind"], one["key"]) for one in told["examples"]] == [("missing", KEY)]
    (line,) = TenantLog(project.home / "tenants" / "acme").events()
    assert line["event"] == {
        "event": "index-repaired",
        "storage": "s1",
        "search": "e1",
        "mended": 1,
        "left": 0,
        "counts": told["counts"],
    }
    assert Records(connect(project.home)).worker("acme") is None, "the lease is given back"
    again = repair.repair(project, "acme", 0.0, unwatched)
    assert (again["differences"], again["mended"]) == (0, 0)
    assert len(list(TenantLog(project.home / "tenants" / "acme").events())) == 1, "nothing happened, nothing to tell"


def test_more_differences_than_are_looked_at_twice_are_mended_and_proven_all_the_same(project, found, monkeypatch):
    monkeypatch.setattr(repair, "AGAIN_LIMIT", 1)
    held = documents(found)
    del held["people/1"], held["people/2"]
    held["people/gone"] = (3, {**held["people/3"][1], "key": "records/people/gone.json"})
    delete_record(found.side, "people", "4")
    told = repair.repair(project, "acme", 0.0, unwatched)
    assert (told["differences"], told["mended"], told["left"]) == (4, 4, 0)
    assert kinds(found) == {}


def test_what_has_come_right_since_the_comparison_is_not_written_again(sides):
    held = documents(sides)
    del held["people/1"]
    differences = compare(sides, 0.0).differences
    write_record(sides.side, "people", "1", {"name": "newer"})
    sides.worker.bring_up_to_date([KEY])
    mine = held["people/1"]
    assert mend(sides, differences) == []
    assert held["people/1"] is mine


def test_a_verify_only_looks(project, found):
    del documents(found)["people/1"]
    told = repair.verify(project, "acme", 0.0, unwatched)
    assert told["counts"]["missing"] == told["differences"] == 1
    assert "people/1" not in documents(found)


@pytest.mark.parametrize("code", ["operation-unfinished", "sealed", "lease-held"])
def test_a_repair_is_refused_while_somebody_else_may_act_and_changes_nothing(project, found, code):
    records = Records(connect(project.home))
    documents(found).clear()
    if code == "operation-unfinished":
        records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    elif code == "sealed":
        Seals(connect(project.home)).put("acme", "stolen", "ada")
    with contextlib.ExitStack() as held:
        if code == "lease-held":
            held.enter_context(records.lease("acme"))
        with pytest.raises(RefusedInput) as refused:
            repair.repair(project, "acme", 0.0, unwatched)
    assert refused.value.code == code
    assert "acme" in refused.value.hint
    assert documents(found) == {}


def test_a_seal_in_the_middle_of_a_repair_stops_it_before_the_next_write(project, found, monkeypatch):
    documents(found).clear()
    compare_ = repair.compare

    def sealed_meanwhile(*args: Any) -> Any:
        done = compare_(*args)
        Seals(connect(project.home)).put("acme", "stolen", "ada")
        return done

    monkeypatch.setattr(repair, "compare", sealed_meanwhile)
    with pytest.raises(Conflict):
        repair.repair(project, "acme", 0.0, unwatched)
    assert documents(found) == {}
