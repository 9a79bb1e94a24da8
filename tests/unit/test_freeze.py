"""A freeze is settled, not declared; what lands late stops the operation, and is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import layouts
import pytest
from fake_s3 import SOURCE, TARGET, FakeS3, a_history, delete, error, put, two_storages
from fake_sqs import TAGS, FakeSqs

from migrate import freeze
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side
from migrate.copy.settle import PROBES
from migrate.copy.tags import TagQueue
from migrate.copy.verify import verify_copied, verify_storage
from migrate.errors import CloudError, VerificationFailed, Waiting
from migrate.freeze import Freeze, LateWrite, Pipe, goes_on_at
from migrate.log import Log
from migrate.operations import OperationKind, Request
from migrate.plan import plan
from migrate.progress import unwatched
from migrate.queues import SqsQueues
from migrate.runner import step_names
from migrate.verdict import Verdict, VerdictKind, Verdicts

OPERATION = "acme-enable-1"
RECORD, EMPTY = "records/a/1.json", "attachments/empty"


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class NoWriter:
    """The client of a role whose every write is denied."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**_: Any) -> None:
            raise error("AccessDenied", 403, operation="".join(word.title() for word in name.split("_")))

        return call


def until(is_so: Callable[[], bool], what: str, _: float) -> float:
    for _ in range(12):
        if is_so():
            return 0.0
    raise Waiting(f"{what} took too long", waits_for=what)


@dataclass
class Lab:
    """A tenant of the shared bucket on its way to a dedicated one."""

    s3: FakeS3
    sqs: FakeSqs
    transfer: Transfer
    verdicts: Verdicts
    log: Log
    is_watched: bool = True
    workers: dict[str, Callable[[str], dict[str, str]]] = field(default_factory=dict)
    edits: Callable[[], dict[str, Any]] | None = None

    @property
    def freeze(self) -> Freeze:
        queue = TagQueue(self.sqs, TAGS, SOURCE) if self.is_watched else None
        return Freeze(
            tenant="acme",
            operation=OPERATION,
            transfer=self.transfer,
            writers={"archive": Side(NoWriter(), SOURCE)},
            pipes=[Pipe(id="p1", queue_url="p1", dead_letters_url="p1-dlq")],
            tag_queue=queue,
            queues=SqsQueues(self.sqs),
            verdicts=self.verdicts,
            log=self.log,
            report=unwatched,
            until=until,
            workers=self.workers,
            edits=self.edits,
        )

    def pre_copy(self) -> None:
        """As the phase build does it, with jobs open."""
        self.freeze.follow_tags()
        copy_pass(self.transfer, unwatched)
        verify_copied(self.transfer, OPERATION, unwatched)
        self.freeze.follow_tags()
        copy_pass(self.transfer, unwatched)

    def copy_frozen(self) -> None:
        made = self.freeze
        made.follow_tags()
        made.refuse_late(copy_pass(self.transfer, unwatched))

    def prove(self) -> None:
        """As the move verify-storage does it, with the verdict."""
        try:
            found = verify_storage(self.transfer, OPERATION, unwatched)
        except VerificationFailed as failed:
            raise self.freeze.explained(failed) from failed
        now = datetime.now(UTC)
        self.verdicts.store(
            Verdict(
                id=f"{OPERATION}-storage", kind=VerdictKind.STORAGE, tenant="acme", operation=OPERATION, subject="s1",
                passed=True, counts={}, manifest_sha256=found.manifest_sha256, started_at=now, finished_at=now,
            )
        )  # fmt: skip

    def finish(self) -> None:
        """The whole of a freeze, to the last look; raises if anything stops it."""
        self.freeze.settle()
        self.copy_frozen()
        self.prove()
        self.freeze.still_settled()

    def tag(self, key: str, tags: dict[str, str], version_id: str | None = None) -> None:
        tagging = {"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}
        self.s3.put_object_tagging(Bucket="shared", Key=f"t/acme/{key}", Tagging=tagging, VersionId=version_id)

    def tags(self, bucket: str) -> dict[str, list[dict[str, str]]]:
        """Of every key, its versions' tags, oldest first."""
        prefix = "t/acme/" if bucket == "shared" else ""
        return {
            key.removeprefix(prefix): [version.tags for version in versions]
            for (name, key), versions in self.s3.versions.items()
            if name == bucket and key.startswith(prefix) and versions
        }


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    s3, source, target = two_storages()
    sqs = FakeSqs()
    s3.tagged = sqs.tagged
    a_history(s3)
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        yield Lab(s3, sqs, Transfer(source, target, manifest, threads=3), Verdicts(tmp_path), Log(tmp_path))


def revive(lab: Lab) -> None:
    lab.s3.before = lab.s3.after = lambda *_: None
    lab.sqs.time_out()


# tags -----------------------------------------------------------------------------------------


def _first_version(lab: Lab) -> str:
    return lab.s3.versions["shared", f"t/acme/{RECORD}"][0].id


TAGGED = {
    "set": lambda lab: lab.tag(EMPTY, {"hold": "yes"}),
    "changed on a noncurrent version": lambda lab: lab.tag(RECORD, {"case": "8"}, _first_version(lab)),
    "deleted from a noncurrent version": lambda lab: lab.tag(RECORD, {}, _first_version(lab)),
    "set twice": lambda lab: (lab.tag(EMPTY, {"hold": "no"}), lab.tag(EMPTY, {"hold": "yes"})),
    "set on an awkward name": lambda lab: lab.tag("attachments/Größe +%&.txt", {"a b": "c+d"}),
}


@pytest.mark.parametrize("when", ["while jobs run", "at the last moment"])
@pytest.mark.parametrize("how", TAGGED)
def test_a_tag_that_changes_after_its_object_was_copied_and_compared_is_kept(lab: Lab, how: str, when: str) -> None:
    lab.freeze.follow_tags()
    copy_pass(lab.transfer, unwatched)
    verify_copied(lab.transfer, OPERATION, unwatched)
    if when == "at the last moment":
        lab.freeze.follow_tags()
        copy_pass(lab.transfer, unwatched)
    before = lab.tags("dedicated")
    TAGGED[how](lab)
    assert lab.tags("shared") != before, "the test's own change"
    lab.pre_copy()
    lab.finish()
    assert lab.tags("dedicated") == lab.tags("shared")


def test_what_was_tagged_again_is_compared_again(lab: Lab) -> None:
    lab.pre_copy()
    lab.tag(EMPTY, {"hold": "yes"})
    lab.freeze.settle()
    lab.copy_frozen()
    lab.s3.calls.clear()
    lab.prove()
    assert lab.s3.calls.count("head_object") == 2, "both sides of the one version, and of no other"
    assert all(row.verified_in == OPERATION for row in lab.transfer.manifest.rows())


def test_a_tag_at_the_target_that_is_not_the_sources_fails_the_proof(lab: Lab) -> None:
    lab.pre_copy()
    lab.tag(EMPTY, {"hold": "yes"})
    lab.freeze.settle()
    lab.copy_frozen()
    lab.s3.current("dedicated", EMPTY).tags = {"hold": "no"}
    with pytest.raises(VerificationFailed, match="tags"):
        lab.prove()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", range(1, 26, 2))
def test_a_kill_at_any_call_while_tags_are_followed_loses_none(lab: Lab, nth: int, after: bool) -> None:
    lab.pre_copy()
    for n in range(12):
        put(lab.s3, f"attachments/{n}")
    copy_pass(lab.transfer, unwatched)
    for n in range(12):
        lab.tag(f"attachments/{n}", {"n": str(n)})
    calls = 0

    def kill(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise Killed

    setattr(lab.s3, "after" if after else "before", kill)
    with pytest.raises(Killed):
        lab.freeze.settle()
    revive(lab)
    lab.finish()
    assert lab.tags("dedicated") == lab.tags("shared")
    assert not [key for key in lab.tags("shared") if key.startswith(PROBES)], (
        "a probe was left in the customer's storage"
    )


def test_nothing_is_copied_before_it_is_proven_that_tag_changes_are_heard(lab: Lab) -> None:
    lab.sqs.delivers = "never"
    with pytest.raises(Waiting, match="tag changes in s3://shared/t/acme/ to be heard of"):
        lab.pre_copy()
    assert lab.s3.bodies("dedicated") == {}
    lab.sqs.delivers = "at-once"
    lab.pre_copy()
    lab.finish()


def test_a_right_that_has_not_spread_yet_is_waited_for_and_another_error_is_raised(lab: Lab) -> None:
    lab.sqs.refuses = [error("AccessDenied", 403, operation="GetQueueAttributes")] * 3
    lab.pre_copy()
    lab.transfer.manifest.forget_note(freeze.HEARD_AT)
    lab.sqs.refuses = [error("KmsDisabled", 400, operation="GetQueueAttributes")]
    with pytest.raises(CloudError, match="KmsDisabled"):
        lab.freeze.follow_tags()


MISTRUSTED = {
    "events do not come": lambda lab: setattr(lab.sqs, "delivers", "never"),
    "nobody listened for two weeks": lambda lab: lab.transfer.manifest.note(
        freeze.HEARD_AT, (datetime.now(UTC) - timedelta(days=14)).isoformat()
    ),
    "it was never listened": lambda lab: lab.transfer.manifest.forget_note(freeze.HEARD_AT),
    "there is no watch": lambda lab: setattr(lab, "is_watched", False),
}


@pytest.mark.parametrize("why", MISTRUSTED)
def test_where_hearing_cannot_be_trusted_every_tag_is_read_again(lab: Lab, why: str) -> None:
    lab.pre_copy()
    MISTRUSTED[why](lab)
    delivers, lab.sqs.delivers = lab.sqs.delivers, "never"
    lab.tag(EMPTY, {"hold": "yes"})
    lab.tag(RECORD, {}, _first_version(lab))
    lab.sqs.delivers = delivers
    assert lab.freeze.settle()["tags"] == {"followed": 2, "swept": True}
    lab.copy_frozen()
    lab.prove()
    assert lab.tags("dedicated") == lab.tags("shared")


def test_a_gap_is_not_closed_by_listening_again(lab: Lab) -> None:
    lab.pre_copy()
    MISTRUSTED["nobody listened for two weeks"](lab)
    lab.freeze.follow_tags()
    assert lab.freeze.settle()["tags"]["swept"]


def test_an_event_that_comes_after_the_settle_stops_the_operation_and_a_second_settle_takes_it_in(lab: Lab) -> None:
    lab.pre_copy()
    lab.sqs.delivers = "later"
    lab.tag(EMPTY, {"hold": "yes"})
    lab.freeze.settle()
    lab.copy_frozen()
    lab.prove()
    lab.sqs.arrive()
    with pytest.raises(LateWrite, match="the tags of attachments/empty"):
        lab.freeze.still_settled()
    lab.sqs.time_out()
    lab.finish()
    assert lab.tags("dedicated") == lab.tags("shared")


def test_an_event_that_is_only_late_itself_stops_nothing(lab: Lab) -> None:
    lab.pre_copy()
    lab.sqs.delivers = "later"
    lab.tag(EMPTY, {"hold": "yes"})
    lab.sqs.on_the_way *= 2
    second = lab.sqs.on_the_way.pop()
    lab.sqs.arrive()
    lab.freeze.settle()
    lab.copy_frozen()
    lab.prove()
    lab.sqs.queues[TAGS] = [second]
    assert lab.freeze.still_settled()["tag_changes"] == 1
    assert lab.sqs.queues[TAGS] == []
    assert lab.sqs.in_flight == {}


def test_a_message_that_is_no_event_is_said_and_not_thrown_away(lab: Lab) -> None:
    lab.pre_copy()
    lab.sqs.queues[TAGS] = ["hello"]
    with pytest.raises(CloudError) as found:
        lab.freeze.follow_tags()
    assert found.value.code == "not-an-event"
    assert lab.sqs.in_flight


# settling -------------------------------------------------------------------------------------


def test_a_freeze_settles_and_says_what_it_saw(lab: Lab) -> None:
    lab.pre_copy()
    lab.s3.create_multipart_upload(Bucket="shared", Key="t/acme/attachments/half")
    found = lab.freeze.settle()
    assert (found["refused_after"], found["drained_after"]) == ({"archive": 0.0}, {"p1": 0.0})
    assert (found["uploads_aborted"], found["dead_letters"]) == (1, {})
    assert found["versions"] == 11


def test_a_writer_that_is_let_in_or_a_pipeline_that_is_not_drained_is_waited_for(lab: Lab) -> None:
    lab.pre_copy()
    made = lab.freeze
    made.writers["archive"] = Side(lab.s3, SOURCE)
    with pytest.raises(Waiting, match="archive's writes to s3://shared/t/acme/ to be refused"):
        made.settle()
    lab.sqs.queues["p1"] = ["an event"]
    with pytest.raises(Waiting, match="p1 to be drained"):
        lab.freeze.settle()
    assert lab.transfer.manifest.noted(freeze.SETTLED) is None


def test_dead_letters_are_said_by_name_and_stop_nothing(lab: Lab) -> None:
    lab.pre_copy()
    lab.sqs.queues["p1-dlq"] = ["poison", "poison"]
    assert lab.freeze.settle()["dead_letters"] == {"p1": 2}
    assert list(lab.log.events())[-1]["event"] == {
        "event": "dead-letters",
        "operation": OPERATION,
        "letters": {"p1": 2},
    }


# late writes ----------------------------------------------------------------------------------

LATE = {
    "a version": lambda s3: put(s3, RECORD, b"late"),
    "an object": lambda s3: put(s3, "records/a/late.json", b"late"),
    "a delete marker": lambda s3: delete(s3, EMPTY),
    "a deletion for good": lambda s3: s3.delete_object(
        Bucket="shared", Key=f"t/acme/{EMPTY}", VersionId=s3.current("shared", f"t/acme/{EMPTY}").id
    ),
}
POINTS = ("before the last copy", "before the verdict", "before it serves")


def _stop_at(lab: Lab, point: str, write: Callable[[FakeS3], object]) -> None:
    lab.freeze.settle()
    if point == "before the last copy":
        write(lab.s3)
    lab.copy_frozen()
    if point == "before the verdict":
        write(lab.s3)
    lab.prove()
    write(lab.s3)
    lab.freeze.still_settled()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("late", LATE)
def test_a_write_that_lands_late_stops_the_operation_and_a_resume_takes_it_in(lab: Lab, late: str, point: str) -> None:
    lab.pre_copy()
    with pytest.raises(LateWrite, match="changed after it had settled") as stopped:
        _stop_at(lab, point, LATE[late])
    assert "keyshift resume acme" in stopped.value.hint
    there = {key.removeprefix("t/acme/"): v for key, v in lab.s3.bodies("shared").items() if "acme2" not in key}
    lab.finish()
    assert lab.s3.bodies("dedicated") == there, "it was kept, and is at the target now"
    verdict = lab.verdicts.load(f"{OPERATION}-storage")
    assert verdict is not None
    assert verdict.manifest_sha256 == lab.transfer.manifest.digest(), (
        "a purge asks for a verdict over what is there now"
    )


def test_an_upload_that_is_begun_late_stops_the_operation_and_a_resume_aborts_it(lab: Lab) -> None:
    lab.pre_copy()

    def begin(s3: FakeS3) -> None:
        s3.create_multipart_upload(Bucket="shared", Key="t/acme/attachments/half")

    with pytest.raises(LateWrite, match=r"attachments/half \(an unfinished upload\)"):
        _stop_at(lab, "before it serves", begin)
    lab.finish()
    assert lab.s3.uploads == {}


def test_a_verdict_that_a_late_write_has_overtaken_is_void_and_kept_aside(lab: Lab, tmp_path: Path) -> None:
    lab.pre_copy()
    lab.finish()
    first = lab.verdicts.load(f"{OPERATION}-storage")
    put(lab.s3, RECORD, b"late")
    lab.freeze.settle()
    assert lab.verdicts.load(f"{OPERATION}-storage") is None, "nothing may be purged under it"
    lab.freeze.settle()
    lab.copy_frozen()
    lab.prove()
    assert lab.verdicts.load(f"{OPERATION}-storage") != first
    assert [path.name for path in (tmp_path / "verdicts").glob("*.void-*")] == [f"{OPERATION}-storage.json.void-1"]
    assert [line["event"]["event"] for line in lab.log.events()] == ["verdict-void"]


def test_a_resume_goes_back_to_the_freeze_only_where_that_can_mend_it() -> None:
    made = plan(Request(operation=OPERATION, kind=OperationKind.ENABLE, mode="byok"), layouts.standard())
    steps = [step for phase in made.phases for step in step_names(phase)]
    back = {step for step in steps if goes_on_at(made, step, "late-write")}
    assert {step.partition("/")[0] for step in back} == {"freeze", "attach"}
    assert {goes_on_at(made, step, "late-write") for step in back} == {"freeze/up"}
    assert goes_on_at(made, "freeze/4-verify-storage", "versions-differ") == "freeze/up"
    assert goes_on_at(made, "freeze/3-copy", "cloud") is None, "what failed for another reason is only done again"
    request = plan(Request(operation="r", kind=OperationKind.REQUEST), layouts.standard())
    assert goes_on_at(request, "key/up", "late-write") is None


# edits and the worker that applies them --------------------------------------------------------


def test_a_worker_that_still_gets_through_is_waited_for(lab):
    answers = [
        {"PutObject": "", "PutObjectTagging": ""},
        {"PutObject": "AccessDenied", "PutObjectTagging": ""},
        {"PutObject": "AccessDenied", "PutObjectTagging": "AccessDenied"},
    ]
    asked: list[str] = []

    def refusals(key: str) -> dict[str, str]:
        asked.append(key)
        return answers[len(asked) - 1]

    lab.workers = {"p1": refusals}
    found = lab.freeze.settle()
    assert set(found["refused_after"]) == {"archive", "p1"}
    assert len(asked) == 3
    assert all(key.startswith(PROBES) for key in asked), "the pipeline has no document of a probe"
    assert not [key for _, key in lab.s3.versions if PROBES in key and lab.s3.versions["shared", key]]


@pytest.mark.parametrize("answer", [{}, {"PutObject": "KMS.DisabledException"}, {"PutObject": "NoSuchBucket"}])
def test_an_answer_of_the_worker_that_is_no_denial_proves_nothing(lab, answer):
    lab.workers = {"p1": lambda _: answer}
    with pytest.raises(CloudError, match="p1 can still write"):
        lab.freeze.settle()


def test_the_last_edits_are_taken_in_before_the_pipelines_are_drained_and_told_in_the_log(lab):
    told = {"edits": {"applied": 1, "refused": 1}, "told": [{"edit": "x", "outcome": "refused", "reason": "deleted"}]}

    def taken_in() -> dict[str, Any]:
        lab.sqs.queues["p1"] = ["the event of the object that an edit changed"]
        return told

    lab.edits = taken_in
    with pytest.raises(Waiting, match="p1 to be drained"):
        lab.freeze.settle()
    lab.edits = lambda: told
    lab.sqs.queues["p1"] = []
    assert lab.freeze.settle()["edits"] == {"applied": 1, "refused": 1}
    events = [line["event"] for line in lab.log.events() if line["event"]["event"] == "edits-told"]
    assert [event["told"] for event in events] == [told["told"]] * 2
