"""The way back in memory: order, doubles, deaths, several pollers at once, conflicts, a restored search."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_worker_handler import MemoryIndex

from components.worker import handler
from components.worker.annotations import Field, MalformedEdit, annotated, checked, weight, written
from components.worker.core import TICK as SCHEDULED
from components.worker.core import Found, Worker
from components.worker.document import NotIndexable, document
from components.worker.edits import ATTEMPTS, Busy, Edit, Held, Outcome, Polled, Position, poll
from components.worker.elastic import SearchError

KEYS = ("records/people/a.json", "attachments/b")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@dataclass
class Bucket:
    """A versioned bucket with conditional copies. `before` sees every call and may raise or act."""

    versions: dict[str, list[tuple[dict[str, str], bytes] | None]] = field(default_factory=dict)
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    edits: int = 0

    def archive(self, key: str, text: str = "") -> None:
        last, kept = self.last_revision(key) or 0, self.now(key)
        carried = {n: kept[0][n] for n in ("annotations", "edited") if kept and n in kept[0]}
        metadata = {**carried, "archived-at": "2026-01-01T00:00:00Z", "revision": str(last + 1)}
        body = text.encode()
        if key.startswith("records/"):
            facts = {"type": "people", "id": "a"}
            metadata |= facts
            body = json.dumps({**facts, "revision": last + 1, "data": {"text": text}}).encode()
        self.versions.setdefault(key, []).append((metadata, body))

    def delete(self, key: str) -> None:
        if self.now(key):
            self.versions[key].append(None)

    def now(self, key: str) -> tuple[dict[str, str], bytes] | None:
        return self.versions.get(key, [None])[-1]

    def held(self, key: str) -> Held | None:
        self.before("held")
        found = self.now(key)
        if found is None:
            return None
        number = str(len(self.versions[key]))
        return Held(found[0], len(found[1]), number, number)

    def annotate(self, key: str, held: Held, metadata: Any) -> bool:
        self.before("annotate")
        now = self.now(key)
        if now is None or str(len(self.versions[key])) != held.etag:
            return False
        self.versions[key].append((dict(metadata), now[1]))
        self.edits += 1
        self.after("annotate")
        return True

    def read(self, key: str) -> Found | None:
        now = self.now(key)
        return None if now is None else Found(now[0], len(now[1]), [now[1]])

    def last_revision(self, key: str) -> int | None:
        return next((int(v[0]["revision"]) for v in reversed(self.versions.get(key, [])) if v is not None), None)


@dataclass
class Log:
    """The edits of a search: one shard, append-only, with what is kept about them."""

    edits: list[Edit] = field(default_factory=list)
    at: Position | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    term: int = 1
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None

    def add(self, key: Any, changes: Any, **more: Any) -> Edit:
        position = Position(self.term, len(self.edits))
        made = Edit(f"{self.term}-{len(self.edits)}", position, {"key": key, "changes": changes, **more})
        self.edits.append(made)
        return made

    def checkpoint(self) -> int:
        self.before("checkpoint")
        return len(self.edits) - 1

    def page(self, since: int, upto: int) -> Sequence[Edit]:
        self.before("page")
        return [edit for edit in self.edits if since <= edit.position.seq <= upto][:3]

    def cursor(self) -> Position | None:
        self.before("cursor")
        return self.at

    def known(self, ids: Collection[str]) -> Collection[str]:
        return {id for id in ids if id in self.outcomes}

    def keep(self, outcome: Outcome) -> None:
        self.before("keep")
        self.outcomes.setdefault(outcome.edit.id, outcome)
        self.after("keep")

    def advance(self, position: Position) -> None:
        self.before("advance")
        self.at = position
        self.after("advance")


@pytest.fixture
def bucket() -> Bucket:
    made = Bucket()
    for key in KEYS:
        made.archive(key)
    return made


@pytest.fixture
def log() -> Log:
    return Log()


def shown(bucket: Bucket, key: str) -> dict[str, Any]:
    now = bucket.now(key)
    assert now is not None
    return {name: one.value for name, one in annotated(now[0]).items()}


# one edit --------------------------------------------------------------------------------------


def test_an_edit_becomes_the_next_revision_and_leaves_the_bytes(bucket, log):
    log.add(KEYS[0], {"tags": ["x"], "note": "ü  ✓ %"})
    polled = poll(log, bucket, "e1")
    assert [(o.outcome, o.revision) for o in polled.outcomes] == [("applied", 2)]
    assert polled.is_done
    metadata, body = bucket.now(KEYS[0])
    assert (metadata["revision"], metadata["content-revision"]) == ("2", "1")
    assert all(value.isascii() and "  " not in value for value in metadata.values()), "what a header can carry"
    made = document(KEYS[0], metadata, len(body), [body])
    assert (made.revision, made.source["tags"], made.source["note"]) == (2, ["x"], "ü  ✓ %")


def test_the_same_edit_again_changes_nothing(bucket, log):
    log.add(KEYS[0], {"tags": ["x"]})
    poll(log, bucket, "e1")
    log.at, log.outcomes = None, {}
    assert [o.outcome for o in poll(log, bucket, "e1").outcomes] == ["applied"]
    assert bucket.edits == 1


def test_an_edit_that_changes_nothing_makes_no_revision(bucket, log):
    log.add(KEYS[0], {"note": None})
    assert [o.outcome for o in poll(log, bucket, "e1").outcomes] == ["unchanged"]
    assert bucket.edits == 0


def test_a_new_search_begins_at_its_own_first_edit(bucket, log):
    for number in range(5):
        log.add(KEYS[0], {"note": str(number)})
    poll(log, bucket, "e1")
    fresh = Log()
    fresh.add(KEYS[0], {"note": "of the new search"})
    assert [o.outcome for o in poll(fresh, bucket, "e2").outcomes] == ["applied"], "its numbers begin at 0 again"
    assert shown(bucket, KEYS[0]) == {"note": "of the new search"}


def test_an_edit_of_a_deleted_record_is_refused_and_the_next_one_is_not_held_up(bucket, log):
    bucket.delete(KEYS[0])
    log.add(KEYS[0], {"note": "late"})
    log.add(KEYS[1], {"note": "in time"})
    outcomes = poll(log, bucket, "e1").outcomes
    assert [(o.outcome, o.reason[:7]) for o in outcomes] == [("refused", "deleted"), ("applied", "")]


# conflicts -------------------------------------------------------------------------------------


def test_the_last_edit_of_a_field_wins_and_says_what_its_author_had_not_seen(bucket, log):
    log.add(KEYS[0], {"note": "first", "tags": ["a"]}, base_revision=1)
    log.add(KEYS[0], {"note": "second"}, base_revision=1)
    log.add(KEYS[0], {"legal_hold": True}, base_revision=1)
    log.add(KEYS[0], {"note": "third"}, base_revision=4)
    outcomes = poll(log, bucket, "e1").outcomes
    assert [o.overrode for o in outcomes] == [(), ("note",), (), ()]
    assert shown(bucket, KEYS[0]) == {"note": "third", "tags": ["a"], "legal_hold": True}, "field by field"


def test_a_death_between_the_copy_and_the_report_loses_no_conflict(bucket, log):
    log.add(KEYS[0], {"note": "first"}, base_revision=1)
    log.add(KEYS[0], {"note": "second"}, base_revision=1)

    def die(call: str) -> None:
        if call == "annotate" and bucket.edits == 2:
            raise Killed

    bucket.after = die
    with pytest.raises(Killed):
        poll(log, bucket, "e1")
    bucket.after = lambda _: None
    poll(log, bucket, "e1")
    assert [o.overrode for o in log.outcomes.values()] == [(), ("note",)]
    assert bucket.edits == 2


def test_an_archive_job_that_comes_between_is_not_overwritten(bucket, log):
    log.add(KEYS[0], {"note": "x"})
    calls = []

    def once(call: str) -> None:
        calls.append(call)
        if calls.count("annotate") == 1 and call == "annotate":
            bucket.archive(KEYS[0], "newer")

    bucket.before = once
    assert [o.revision for o in poll(log, bucket, "e1").outcomes] == [3]
    metadata, body = bucket.now(KEYS[0])
    assert json.loads(body)["data"] == {"text": "newer"}
    assert metadata["content-revision"] == "2"


def test_an_object_that_never_stands_still_stops_the_poll_before_its_edit(bucket, log):
    log.add(KEYS[0], {"note": "x"})
    log.add(KEYS[1], {"note": "y"})
    bucket.before = lambda call: bucket.archive(KEYS[0]) if call == "annotate" else None
    with pytest.raises(Busy, match=f"{ATTEMPTS} times"):
        poll(log, bucket, "e1")
    assert log.outcomes == {}, "a later edit must not overtake it"
    bucket.before = lambda _: None
    assert len(poll(log, bucket, "e1").outcomes) == 2


# what people may send --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({}, "its key"),
        ({"key": 7, "changes": {"note": "x"}}, "its key"),
        ({"key": "canary/x", "changes": {"note": "x"}}, "its key"),
        ({"key": "attachments/\ud800", "changes": {"note": "x"}}, "its key"),
        ({"key": KEYS[0]}, "changes nothing"),
        ({"key": KEYS[0], "changes": {}}, "changes nothing"),
        ({"key": KEYS[0], "changes": ["note"]}, "changes nothing"),
        ({"key": KEYS[0], "changes": {"revision": 9}}, "no field 'revision'"),
        ({"key": KEYS[0], "changes": {"note": 1}}, "note must be text"),
        ({"key": KEYS[0], "changes": {"note": "\udfff"}}, "note must be text"),
        ({"key": KEYS[0], "changes": {"legal_hold": "yes"}}, "true or false"),
        ({"key": KEYS[0], "changes": {"tags": "x"}}, "a list of words"),
        ({"key": KEYS[0], "changes": {"tags": ["x", "x"]}}, "no tag twice"),
        ({"key": KEYS[0], "changes": {"tags": ["x" * 129]}}, "at most 128"),
        ({"key": KEYS[0], "changes": {"note": "x"}, "base_revision": "1"}, "base_revision"),
        ({"key": KEYS[0], "changes": {"note": "x" * 2048}}, "2048 bytes"),
    ],
)
def test_what_cannot_be_applied_is_refused_with_the_reason_and_holds_nothing_up(bucket, log, source, reason):
    log.edits.append(Edit("bad", Position(1, 0), source))
    log.add(KEYS[1], {"note": "good"})
    bad, good = poll(log, bucket, "e1").outcomes
    assert bad.outcome == "refused"
    assert reason in bad.reason
    assert good.outcome == "applied"
    assert bucket.edits == 1


def test_metadata_that_nobody_can_read_is_a_reason_and_not_a_crash(bucket, log):
    bucket.now(KEYS[0])[0]["annotations"] = "not json"
    log.add(KEYS[0], {"note": "x"})
    (outcome,) = poll(log, bucket, "e1").outcomes
    assert outcome.reason.startswith("unreadable")
    with pytest.raises(NotIndexable, match="annotations"):
        document(KEYS[1], {**bucket.now(KEYS[1])[0], "annotations": "[]"}, 0, [b""])


@given(
    st.dictionaries(st.sampled_from(["note"]), st.text(max_size=200))
    | st.fixed_dictionaries({"tags": st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=5)})
)
def test_whatever_is_written_is_read_again(changes):
    try:
        fields = checked(changes)
    except MalformedEdit:
        return
    text = written({name: Field(value, 3) for name, value in fields.items()})
    assert text.isascii()
    assert text == " ".join(text.split()), "a signature folds spaces"
    assert {name: one.value for name, one in annotated({"annotations": text}).items()} == fields
    assert weight({"annotations": text}) == len("annotations") + len(text)


# a search that was restored --------------------------------------------------------------------


def test_a_restored_search_is_read_again_from_the_beginning_and_nothing_is_doubled(bucket, log):
    for number in range(6):
        log.add(KEYS[number % 2], {"note": str(number)})
    poll(log, bucket, "e1")
    done = bucket.edits
    log.edits, log.term = log.edits[:3], 2
    for number in range(3):
        log.add(KEYS[0], {"tags": [str(number)]})
    assert log.at == Position(1, 5), "the cursor points at an edit whose number somebody else has now"
    polled = poll(log, bucket, "e1")
    assert polled.is_rewound
    assert bucket.edits == done + 3, "the lost ones' numbers were given again, and none of them was skipped"
    assert shown(bucket, KEYS[0]) == {"note": "4", "tags": ["2"]}


def test_time_that_runs_out_leaves_the_rest_to_the_next_poll(bucket, log):
    for number in range(7):
        log.add(KEYS[0], {"note": str(number)})
    budget = iter([True] * 4 + [False] * 99)
    first = poll(log, bucket, "e1", lambda: next(budget))
    assert (len(first.outcomes), first.is_done) == (4, False)
    second = poll(log, bucket, "e1")
    assert (len(second.outcomes), second.is_done, second.is_rewound) == (3, True, False)
    assert bucket.edits == 7


# any schedule ----------------------------------------------------------------------------------

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "note": st.sampled_from([None, "n1", "n2"]),
        "tags": st.sampled_from([None, ["t1"], ["t1", "t2"]]),
        "legal_hold": st.sampled_from([None, True, False]),
    },
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), st.sampled_from(KEYS), CHANGES, st.none() | st.integers(1, 9)),
        st.tuples(st.just("archive"), st.sampled_from(KEYS), st.text("xyz", max_size=2)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS)),
        st.tuples(st.just("poll"), st.lists(st.integers(1, 25), max_size=3), st.integers(0, 8)),
    ),
    max_size=25,
)


def played(steps: Any, disturbed: bool) -> tuple[Bucket, Log]:
    bucket, log = Bucket(), Log()
    for key in KEYS:
        bucket.archive(key)
    for step in [*steps, ("poll", [4, 9], 2)]:
        if step[0] == "edit":
            log.add(step[1], step[2], base_revision=step[3])
        elif step[0] == "archive":
            bucket.archive(step[1], step[2])
        elif step[0] == "delete":
            bucket.delete(step[1])
        else:
            if disturbed:
                disturb(bucket, log, deaths=step[1], intruded_at=step[2])
            poll(log, bucket, "e1")
    return bucket, log


def disturb(bucket: Bucket, log: Log, *, deaths: list[int], intruded_at: int) -> None:
    """Pollers that die at any call, before or after what it does, and one that another overtakes in its middle."""
    for death in deaths:
        calls = 0

        def die(_: str) -> None:
            nonlocal calls
            calls += 1
            if calls == death:  # noqa: B023 - used up in this round
                raise Killed

        for one in (bucket, log):
            one.before = one.after = die
        try:
            poll(log, bucket, "e1")
        except Killed:
            pass
        finally:
            for one in (bucket, log):
                one.before = one.after = lambda _: None
    intruder = {"calls": 0}

    def overtake(_: str) -> None:
        intruder["calls"] += 1
        if intruder["calls"] == intruded_at:
            bucket.before = log.before = lambda _: None
            poll(log, bucket, "e1")

    bucket.before = log.before = overtake
    poll(log, bucket, "e1")
    bucket.before = log.before = lambda _: None


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_deaths_doubles_and_pollers_side_by_side_come_to_what_one_quiet_poller_comes_to(steps):
    quiet, quiet_log = played(steps, disturbed=False)
    bucket, log = played(steps, disturbed=True)
    assert bucket.versions == quiet.versions, "no edit lost, none doubled, none out of order"
    assert log.outcomes == quiet_log.outcomes
    assert len(log.outcomes) == len(log.edits), "every edit comes to something"
    applied = [one for one in log.outcomes.values() if one.outcome == "applied"]
    assert bucket.edits == len(applied)


@given(STEPS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_after_lost_doubled_and_disordered_events_a_repair_shows_every_edit(steps, random):
    bucket, _ = played(steps, disturbed=True)
    index = MemoryIndex()
    worker = Worker(bucket, index, "b", "")
    events = [key for key in KEYS for _ in bucket.versions[key]] * 2
    random.shuffle(events)
    for key in events[: len(events) // 2]:
        assert worker.bring_up_to_date([key]) == {}
    assert worker.bring_up_to_date(KEYS) == {}
    for key in KEYS:
        now = bucket.now(key)
        held = next((one for one in index.documents.values() if one.source.get("key") == key), None)
        if now is None:
            assert held is None or held.is_tombstone
        else:
            assert held == document(key, now[0], len(now[1]), [now[1]])


# Lambda's side ---------------------------------------------------------------------------------


class Way:
    """A pipeline whose edits raise, or are `log`'s."""

    def __init__(self, bucket: Bucket, log: Log, error: Exception | None = None) -> None:
        self.worker = Worker(bucket, None, "b", "")
        self.objects, self.search, self.error, self.log = bucket, "e1", error, log
        self.ticks = []
        self.edits = self

    def note_tick(self, sent_at: Any) -> None:
        if self.error:
            raise self.error
        self.ticks.append(sent_at)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


TICK = {"messageId": "t", "body": json.dumps(SCHEDULED), "attributes": {"SentTimestamp": "1767225600000"}}


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def handled(monkeypatch: pytest.MonkeyPatch, way: Way) -> Any:
    monkeypatch.setattr(handler.boto3, "client", lambda _service: None)
    cached = handler.functools.cache(lambda: way)
    monkeypatch.setattr(handler, "way", cached)
    answer = handler.handle({"Records": [TICK]}, Context())
    return answer, cached.cache_info().currsize


def test_a_tick_makes_the_worker_look_for_edits_and_says_how_long_the_queue_is(monkeypatch, bucket, log):
    log.add(KEYS[0], {"note": "x"})
    way = Way(bucket, log)
    assert handled(monkeypatch, way) == ({"batchItemFailures": []}, 1)
    assert shown(bucket, KEYS[0]) == {"note": "x"}
    assert [tick.isoformat() for tick in way.ticks] == ["2026-01-01T00:00:00+00:00"]


@pytest.mark.parametrize(
    ("error", "kept"),
    [(SearchError("no", status=401), 0), (SearchError("busy", status=429), 1), (ValueError("denied"), 1)],
)
def test_a_tick_that_fails_is_not_given_again_and_a_refused_credential_is_read_anew(  # noqa: PLR0917 - fixtures
    monkeypatch, caplog, bucket, log, error, kept
):
    assert handled(monkeypatch, Way(bucket, log, error)) == ({"batchItemFailures": []}, kept)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert Polled().is_done is False
