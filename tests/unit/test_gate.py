"""What Archive may do: the gate's answer in each state of the record, and a client that does no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import pytest
import sqlalchemy as sql

from migrate import gate as gate_module
from migrate.errors import CloudError, KeyshiftError, RefusedInput
from migrate.gate import FRESH_SECONDS, ArchiveClient, Gate, GateClosed
from migrate.live import Live
from migrate.operations import OperationKind
from migrate.records import Records
from migrate.seals import Seals
from migrate.stack import Project
from stacks.layout import Gate as LayoutGate
from stacks.layout import Layout
from stacks.record import TENANTS, connect


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sql.Engine:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return connect(tmp_path / ".keyshift")


@pytest.fixture
def records(engine: sql.Engine) -> Records:
    held = Records(engine)
    held.create(layouts.standard())
    return held


@pytest.fixture
def gate(engine: sql.Engine, records: Records) -> Gate:
    return Gate(engine, "acme", fresh_seconds=0)


def advance(records: Records, layout: Layout) -> None:
    with records.lease("acme") as fence:
        records.advance(layout, fence)


# the answer -----------------------------------------------------------------------------------


def test_an_open_gate_lets_jobs_run_and_searches_see_all(gate: Gate) -> None:
    answer = gate.now()
    assert (answer.jobs, answer.searches, answer.access) == (None, None, None)
    assert (answer.storage, answer.search, answer.alias, answer.cutoff) == ("s1", "e1", "records", None)
    assert gate.require_jobs().storage == gate.require_searches().storage == "s1"


def test_a_freeze_closes_jobs_and_limits_searches(gate: Gate, records: Records) -> None:
    advance(records, layouts.enable_frozen())
    answer = gate.now()
    assert answer.jobs == "enable-1: final copy"
    assert answer.searches is None
    assert answer.cutoff == layouts.CUTOFF
    with pytest.raises(GateClosed, match="run jobs on tenant acme now: enable-1: final copy") as closed:
        gate.require_jobs()
    assert (closed.value.code, closed.value.exit_code) == ("jobs-closed", 3)


def test_warnings_are_passed_on_word_by_word(gate: Gate, records: Records) -> None:
    warnings = ("the customer's key was rotated; confirm it in the Console",)
    advance(records, layouts.changed(layouts.standard(), gate=LayoutGate(jobs="closed", warnings=warnings)))
    assert gate.now().warnings == warnings


def test_jobs_stay_closed_until_the_cloud_is_open_too(gate: Gate, records: Records) -> None:
    """The record says `open` before the stack is brought up, and an abort opens what its operation had closed."""
    operation = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    assert gate.now().jobs is None, "an operation that has not closed anything is no reason"
    records.note_once(operation.id, "jobs_closed_at", layouts.CUTOFF)
    records.note(operation.id, state="aborted")
    assert gate.now().jobs == "acme-enable-1 is about to open the gate; the cloud still refuses"
    assert gate.now().searches is None
    records.note_once(operation.id, "jobs_opened_at", layouts.CUTOFF)
    assert gate.now().jobs is None


def test_an_operation_that_took_over_opens_what_another_had_closed(gate: Gate, records: Records) -> None:
    tenant = records.tenant("acme")
    first = records.begin(tenant, OperationKind.ENABLE, "byok")
    records.note_once(first.id, "jobs_closed_at", layouts.CUTOFF)
    records.note(first.id, state="aborted")
    second = records.begin(tenant, OperationKind.ENABLE, "byok")
    records.note_once(second.id, "jobs_closed_at", layouts.CUTOFF + timedelta(seconds=9))
    assert gate.now().jobs == "acme-enable-2 is about to open the gate; the cloud still refuses"
    records.note_once(second.id, "jobs_opened_at", layouts.CUTOFF + timedelta(seconds=10))
    assert gate.now().jobs is None


def test_a_seal_closes_everything_and_says_who_and_why(gate: Gate, engine: sql.Engine) -> None:
    Seals(engine).put("acme", "key reported stolen", "an operator")
    answer = gate.now()
    for reason in (answer.jobs, answer.searches, answer.access):
        assert reason is not None
        assert "by an operator: key reported stolen" in reason
    with pytest.raises(GateClosed, match="key reported stolen"):
        gate.require_searches()


def test_closed_access_closes_jobs_and_searches_too(gate: Gate, records: Records) -> None:
    advance(records, layouts.changed(layouts.standard(), gate=LayoutGate(access="closed", reason="revoked")))
    assert (gate.now().jobs, gate.now().searches) == ("revoked", "revoked")


def test_a_tenant_that_waits_for_its_key_serves_nothing(engine: sql.Engine) -> None:
    Records(engine).create(layouts.byok_pending())
    assert "key is not in" in str(Gate(engine, "acme").now().searches)


# closed, for want of knowledge ----------------------------------------------------------------


def test_a_record_that_cannot_be_read_closes_everything(engine: sql.Engine, records: Records, tmp_path: Path) -> None:
    assert Gate(engine, "acme").now().jobs is None
    (tmp_path / "broken.db").write_bytes(b"no database at all, " * 100)
    broken = Gate(sql.create_engine(f"sqlite:///{tmp_path / 'broken.db'}"), "acme")
    answer = broken.now()
    assert not answer.is_known
    assert (answer.jobs, answer.storage) == (answer.searches, None)
    assert "record database" in str(answer.jobs)
    with pytest.raises(KeyshiftError, match="record database") as failed:
        broken.require_searches()
    assert not isinstance(failed.value, GateClosed), "an operator is told what is broken, not that a gate is closed"


@pytest.mark.parametrize("archived", [True, False])
def test_a_tenant_that_is_not_there_may_do_nothing(engine: sql.Engine, records: Records, archived: bool) -> None:
    if archived:
        with engine.begin() as connection:
            connection.execute(TENANTS.update().values(archived=True))
    unknown = Gate(engine, "acme" if archived else "emca")
    assert unknown.now().jobs is not None
    with pytest.raises(RefusedInput, match="there is no tenant"):
        unknown.require_jobs()


def test_an_answer_is_kept_for_seconds_and_not_a_moment_longer(engine: sql.Engine, records: Records) -> None:
    now = 100.0
    gate = Gate(engine, "acme", clock=lambda: now)
    assert gate.now().jobs is None
    advance(records, layouts.enable_frozen())
    now += FRESH_SECONDS - 0.01
    assert gate.now().jobs is None
    now += 0.02
    assert gate.now().jobs is not None


def test_an_old_answer_is_not_used_when_the_record_cannot_be_read_any_more(
    engine: sql.Engine, records: Records
) -> None:
    gate = Gate(engine, "acme", fresh_seconds=0)
    assert gate.now().jobs is None
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE tenants SET layout = 'torn'"))
    assert gate.now().jobs is not None
    assert not gate.now().is_known


@pytest.mark.parametrize(("fence", "generation"), [(1, 1), (0, 2)])
def test_a_record_that_went_back_is_not_believed(
    gate: Gate, engine: sql.Engine, records: Records, fence: int, generation: int
) -> None:
    advance(records, layouts.changed(layouts.standard(), gate=LayoutGate(reason="another")))
    held = records.tenant("acme")
    assert (held.lease_fence, held.generation) == (1, 2)
    assert gate.now().jobs is None
    with engine.begin() as connection:
        connection.execute(TENANTS.update().values(lease_fence=fence, generation=generation))
    assert "is older" in str(gate.now().jobs)
    with engine.begin() as connection:  # a restore goes back too, and its fence says that it was one
        connection.execute(TENANTS.update().values(lease_fence=1_000_001, generation=1))
    assert gate.now().jobs is None


# the client -----------------------------------------------------------------------------------


class FakeSearch:
    """A deployment by its documents; what a query says is noted and not carried out."""

    def __init__(self, documents: Mapping[str, Mapping[str, Any]]) -> None:
        self.documents = documents
        self.asked: list[dict[str, Any]] = []
        self.fails = False

    def search(self, **asked: Any) -> dict[str, Any]:
        if self.fails:
            raise CloudError("not let in")
        self.asked.append(asked)
        after = (asked.get("search_after") or [""])[0]
        keys = sorted(key for one in self.documents.values() if (key := one["key"]) > after)[: asked["size"]]
        hits = [{"_source": one} for key in keys for one in self.documents.values() if one["key"] == key]
        return {"hits": {"total": {"value": len(self.documents)}, "hits": hits}, "took": 1}

    def get(self, *, index: str, id: str) -> dict[str, Any]:
        self.asked.append({"index": index, "id": id})
        return {"_source": self.documents[id]}


def document(number: int, archived_at: str = "2026-01-01T00:00:00.000Z", **more: Any) -> dict[str, Any]:
    return {"key": f"records/people/{number}.json", "archived_at": archived_at, "deleted": False, **more}


@pytest.fixture
def searches() -> dict[str, FakeSearch]:
    documents = {f"people/{number}": document(number) for number in range(5)}
    return {unit: FakeSearch(documents) for unit in ("e1", "e2")}


@pytest.fixture
def archive(
    tmp_path: Path, records: Records, searches: dict[str, FakeSearch], monkeypatch: pytest.MonkeyPatch
) -> ArchiveClient:
    def find(_: Project, name: str) -> SimpleNamespace:
        layout = records.tenant(name).layout
        return SimpleNamespace(
            layout=layout,
            serves=layout.serves,
            search=lambda unit, audience: searches[unit] if audience == "archive" else None,
            storage=lambda unit, role: SimpleNamespace(unit=unit, role=role),
        )

    monkeypatch.setattr(Live, "find", find)
    return ArchiveClient(Project(root=tmp_path, home=tmp_path / ".keyshift"), "acme", fresh_seconds=0)


def cutoff_in(asked: Mapping[str, Any]) -> Any:
    (part,) = asked["query"]["bool"]["filter"]
    return part["bool"]["filter"][0]["range"]["archived_at"]["lt"]


def test_a_search_goes_by_the_alias_and_says_the_cutoff_itself(
    archive: ArchiveClient, records: Records, searches: dict[str, FakeSearch]
) -> None:
    assert archive.search("Boeing")["total"] == 5
    advance(records, layouts.enable_frozen())
    assert archive.search("Boeing")["cutoff"] == layouts.CUTOFF.isoformat()
    first, second = searches["e1"].asked
    assert first["index"] == second["index"] == "records"
    assert "bool" not in first["query"]
    assert cutoff_in(second) == layouts.CUTOFF.isoformat(timespec="milliseconds"), (
        "the alias is set after the record: until then the query alone keeps the cut-off"
    )


@pytest.mark.parametrize(
    ("found", "is_shown"),
    [
        (document(0), True),
        (document(0, (layouts.CUTOFF - timedelta(milliseconds=1)).isoformat()), True),
        (document(0, layouts.CUTOFF.isoformat()), False),
        (document(0, "2030-01-01T00:00:00.000Z"), False),
        ({"deleted": True, "revision": 3}, False),
    ],
)
def test_a_get_by_id_shows_nothing_that_the_alias_would_hide(
    archive: ArchiveClient, records: Records, searches: dict[str, FakeSearch], found: dict[str, Any], is_shown: bool
) -> None:
    searches["e1"].documents = {"people/0": found}
    advance(records, layouts.enable_frozen())
    assert (archive.get("people", "0") is not None) is is_shown
    assert searches["e1"].asked == [{"index": "records", "id": "people/0"}]


def test_pages_come_whole_and_follow_the_gate_in_between(
    archive: ArchiveClient, records: Records, searches: dict[str, FakeSearch]
) -> None:
    pages = archive.pages("*", size=2)
    assert [one["key"][-6] for one in next(pages)] == ["0", "1"]
    advance(records, layouts.enable_frozen())
    assert [one["key"][-6] for one in next(pages)] == ["2", "3"]
    assert cutoff_in(searches["e1"].asked[-1]), "a point in time would have kept the old filter"
    advance(records, layouts.enable_served())
    assert [one["key"][-6] for one in next(pages)] == ["4"]
    assert searches["e2"].asked, "the side that serves by then"
    assert list(pages) == []
    assert not any("pit" in asked for search in searches.values() for asked in search.asked)


@pytest.mark.parametrize(
    "use",
    [lambda a: a.search("x"), lambda a: a.get("people", "0"), lambda a: next(a.pages("*")), lambda a: a.write("t", "1", {})],
    ids=["search", "get", "pages", "write"],
)  # fmt: skip
def test_a_closed_gate_stops_every_use_before_anything_is_asked(
    archive: ArchiveClient,
    engine: sql.Engine,
    searches: dict[str, FakeSearch],
    use: Callable[[ArchiveClient], object],
) -> None:
    Seals(engine).put("acme", "stolen", "an operator")
    with pytest.raises(GateClosed, match="stolen"):
        use(archive)
    assert searches["e1"].asked == []


def test_a_job_does_not_write_while_jobs_are_closed(
    archive: ArchiveClient, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    monkeypatch.setattr(
        gate_module.archive, "write_record", lambda side, *_: written.append(side) or SimpleNamespace(revision=1)
    )
    archive.write("people", "1", {})
    advance(records, layouts.enable_frozen())
    with pytest.raises(GateClosed, match="final copy"):
        archive.write("people", "1", {})
    assert [(side.unit, side.role) for side in written] == [("s1", "archive")]


def test_while_the_side_is_switched_the_old_search_answers(
    archive: ArchiveClient, records: Records, searches: dict[str, FakeSearch]
) -> None:
    archive.search("x")
    advance(records, layouts.enable_served())
    searches["e2"].fails = True
    assert archive.search("x")["search"] == "e1"
    searches["e2"].fails = False
    assert archive.search("x")["search"] == "e2"


# for an Archive in any language ----------------------------------------------------------------


def test_the_description_names_the_places(
    archive: ArchiveClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {
        "storages": {"s1": {"bucket": "shared", "prefix": "t/acme/"}},
        "searches": {"e1": {"endpoint": "https://e1", "secrets": {"archive": "keyshift/acme/e1/archive"}}},
    }
    monkeypatch.setattr(Live, "find", lambda *_: Live(layouts.standard(), outputs))
    found = gate_module.describe(Project(root=tmp_path, home=tmp_path / ".keyshift"), "acme")
    assert found["jobs"] == {
        "allowed": True, "reason": None, "storage": "s1", "bucket": "shared", "prefix": "t/acme/"
    }  # fmt: skip
    assert found["searches"]["endpoint"] == "https://e1"
    assert found["searches"]["secret"] == "keyshift/acme/e1/archive"


def test_without_the_places_everything_is_closed(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: object) -> Live:
        raise RefusedInput("tenant acme has not been brought up yet")

    monkeypatch.setattr(Live, "find", find)
    found = gate_module.describe(Project(root=tmp_path, home=tmp_path / ".keyshift"), "acme")
    for what in ("access", "jobs", "searches"):
        assert found[what]["allowed"] is False
        assert "not been brought up" in found[what]["reason"]
