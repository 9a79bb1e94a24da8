"""The freeze, settled and not declared; what changes past it stops the operation, and is kept.

Tag changes are heard of from before the first listing on. Whether they are heard is tried, with a change of
our own, at both ends of the copy: what comes between may still be late (S3 promises no order and no time), so
the last look before the new side serves holds once more against what has been heard by then. Where hearing
cannot be trusted every tag is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from migrate.copy import tags
from migrate.copy.manifest import Manifest, Where
from migrate.copy.s3 import DENIALS
from migrate.copy.settle import (
    PROBES,
    probe_object,
    probe_write_refused,
    remove_probes,
    two_equal_listings,
)
from migrate.copy.store import Store
from migrate.copy.transfer import CopyPass, Transfer
from migrate.errors import CloudError, Conflict, VerificationFailed, Waiting
from migrate.log import Log
from migrate.operations import Plan
from migrate.progress import Meter, Progress, Report
from migrate.queues import Pipe, Queues
from migrate.verdict import Verdicts

REFUSED_WITHIN_SECONDS = 300
"""IAM and bucket policies are eventually consistent: a denial may take minutes to reach every front end."""
DRAINED_WITHIN_SECONDS = 1800
HEARD_WITHIN_SECONDS = 300
"""S3 User Guide, "Amazon S3 Event Notifications": typically in seconds, but it can take a minute or longer."""
HEARD_FOR = timedelta(days=13)
"""A day less than the queue keeps what it hears: whoever comes later has not heard it all."""
EXAMPLES = 5

Until = Callable[[Callable[[], bool], str, float], float]
"""(condition, what is waited for, limit in seconds) -> seconds; raises Waiting after the limit."""
Write = dict[str, Any]

SETTLED, HEARD_AT = "settled", "tags-heard-at"
SETTLES_ANEW = frozenset({"late-write", "source-differs", "versions-differ"})
"""Codes of failures that settling and copying anew can mend: doing the failed step again cannot."""


class LateWrite(Conflict):
    """Something came into the source past the closed gate. It is kept; a resume settles anew and takes it in."""

    default_code = "late-write"


def goes_on_at(plan: Plan, step: str, code: str) -> str | None:
    """Where a resume begins after `step` failed with `code`, None for that step itself.

    At the `up` of the phase that settles, until the new side serves: so the layout is the frozen one again, in
    which no event of the new storage reaches its search.
    """
    if code not in SETTLES_ANEW:
        return None
    name = step.partition("/")[0]
    for settling in plan.phases:
        if any(move.kind == "settle" for move in settling.moves):
            since = plan.phases[plan.phases.index(settling) :]
            return f"{settling.name}/up" if any(p.name == name and p.reversible for p in since) else None
    return None


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """One source storage on its way to a target. `transfer.source` is reached as the runner.

    `writers`: the source once more, by each role that may write to it while the gate is open, and `workers`: roles
    that only a function has, each asked what it is answered when it writes to a key. `edits`: closes the search that
    serves for edits and takes in the last ones. `tag_queue` is None where nothing hears of tag changes. `sqs` is a
    client of the runner's.
    """

    tenant: str
    operation: str
    transfer: Transfer[Any]
    writers: dict[str, Store]
    pipes: Sequence[Pipe]
    tag_queue: tags.TagQueue | None
    queues: Queues = field(repr=False)
    verdicts: Verdicts
    log: Log
    report: Report
    until: Until
    workers: Mapping[str, Callable[[str], Mapping[str, str]]] = field(default_factory=dict)
    edits: Callable[[], dict[str, Any]] | None = None
    refused_within: float = REFUSED_WITHIN_SECONDS

    @property
    def source(self) -> Store:
        return self.transfer.source

    @property
    def manifest(self) -> Manifest:
        return self.transfer.manifest

    # while jobs run ---------------------------------------------------------------------------

    def follow_tags(self) -> int:
        """Before each pass: hear of tag changes, at first only once it is proven that they are heard."""
        if self.tag_queue is None or self.manifest.noted(SETTLED):
            return 0
        now = datetime.now(UTC)
        if self.manifest.noted(HEARD_AT) is None:
            followed, _ = self._hear_our_own(self.tag_queue)
        else:
            followed, _ = tags.follow(self.tag_queue, self.transfer, self.report)
            if self._has_gap(now):
                return followed  # the gap stays noted, and the freeze reads every tag
        self.manifest.note(HEARD_AT, now.isoformat())
        return followed

    def _has_gap(self, now: datetime) -> bool:
        heard = self.manifest.noted(HEARD_AT)
        return heard is None or now - datetime.fromisoformat(heard) > HEARD_FOR

    def _hear_our_own(self, queue: tags.TagQueue) -> tuple[int, float]:
        """Change a tag of a probe, and hear until that comes out and nothing more; (tags set again, seconds).

        Proves that changes are heard, and that what was changed before is most likely heard too. Raises Waiting.
        """
        followed = quiet = 0
        heard: set[str] = set()

        def is_heard() -> bool:
            nonlocal followed, quiet
            if not _may_hear(queue):
                return False
            count, keys = tags.follow(queue, self.transfer, self.report)
            heard.update(keys)
            followed += count
            quiet = quiet + 1 if ours in heard and queue.is_empty() else 0
            return quiet >= 2

        with probe_object(self.source) as ours:
            queue.make_one(self.source, ours)
            seconds = self.until(is_heard, f"tag changes in {self.source.storage} to be heard of", HEARD_WITHIN_SECONDS)
        return followed, seconds

    # the freeze -------------------------------------------------------------------------------

    def settle(self) -> dict[str, Any]:
        """Not declared but seen: writers refused, edits taken in, no upload open, pipelines drained, tags followed, two
        equal listings.
        """
        self.void_verdicts()
        self.manifest.forget_note(SETTLED)
        found = self.stand_still()
        followed = self._settle_tags()
        listing = two_equal_listings(self.source, self.report)
        self.manifest.note(SETTLED, listing.sha256)
        return {**found, "tags": followed, **asdict(listing)}

    def stand_still(self) -> dict[str, Any]:
        """Nobody writes any more: writers refused, no upload open, pipelines drained. Raises Waiting after its limits."""
        remove_probes(self.source)
        refused = {role: self._until_refused(role) for role in self.writers}
        refused |= {name: self._until_worker_refused(name) for name in self.workers}
        edits = self._settle_edits()
        aborted = self.source.abort_uploads()
        drained = {pipe.id: self._until_drained(pipe) for pipe in self.pipes}
        found = {"refused_after": refused, "uploads_aborted": aborted, "drained_after": drained}
        return {**found, **edits, "dead_letters": self._dead_letters()}

    def _settle_edits(self) -> dict[str, Any]:
        """After the writers are refused: an object that nobody changes takes every edit at the first attempt."""
        if self.edits is None:
            return {}
        found = self.edits()
        if found["told"]:
            self.log.append({"event": "edits-told", "operation": self.operation, **found})
        return found

    def _until_refused(self, role: str) -> float:
        def is_refused() -> bool:
            return probe_write_refused(self.writers[role], self.source).refused

        what = f"{role}'s writes to {self.source.storage} to be refused"
        return self.until(is_refused, what, self.refused_within)

    def _until_worker_refused(self, name: str) -> float:
        def is_refused() -> bool:
            with probe_object(self.source) as key:
                answered = self.workers[name](key)
            others = sorted({code for code in answered.values() if code and code not in DENIALS})
            if others or not answered:
                raise CloudError(
                    f"probing whether {name} can still write to {self.source.storage}: it answered {answered}",
                    cloud_code=others[0] if others else "",
                    hint="see what it names; an answer that is no denial proves nothing",
                )
            return all(answered.values())

        return self.until(is_refused, f"{name}'s writes to {self.source.storage} to be refused", self.refused_within)

    def _until_drained(self, pipe: Pipe) -> float:
        quiet = 0

        def is_drained() -> bool:
            nonlocal quiet
            quiet = quiet + 1 if not sum(self.queues.counted(pipe.queue_url)) else 0
            return quiet >= 2

        return self.until(is_drained, f"{pipe.id} to be drained", DRAINED_WITHIN_SECONDS)

    def _dead_letters(self) -> dict[str, int]:
        """Letters by pipeline. They stop nothing, but are said: the old search may lack what they speak of.

        The new search is filled from the storage and held against it, never from events.
        """
        found = {pipe.id: sum(self.queues.counted(pipe.dead_letters_url)) for pipe in self.pipes}
        letters = {id: count for id, count in found.items() if count}
        if letters:
            self.log.append({"event": "dead-letters", "operation": self.operation, "letters": letters})
        return letters

    def _settle_tags(self) -> dict[str, Any]:
        """Every tag change up to the freeze is at the target. Exact where `swept`."""
        now, queue = datetime.now(UTC), self.tag_queue
        if self.source.lists_tags:  # a changed tag is another version: the listings have it
            return {"followed": 0, "swept": False}
        if queue is not None and not self._has_gap(now):
            try:
                followed, seconds = self._hear_our_own(queue)
            except Waiting:
                pass  # jobs stand still: reading every tag is slow, but it ends
            else:
                self.manifest.note(HEARD_AT, now.isoformat())
                return {"followed": followed, "heard_after": seconds, "swept": False}
        return {"followed": tags.sweep(self.transfer, self.report), "swept": True}

    def void_verdicts(self) -> None:
        """What an earlier freeze of this operation had proven is no proof of what is copied now."""
        for verdict in self.verdicts.all():
            if verdict.operation == self.operation:
                self.verdicts.void(verdict.id)
                self.log.append({"event": "verdict-void", "verdict": verdict.id, "operation": self.operation})

    # what comes later -------------------------------------------------------------------------

    def refuse_late(self, copied: CopyPass) -> None:
        """Raise LateWrite if a pass after the freeze saw another source than the one that settled."""
        settled = self.manifest.noted(SETTLED)
        if settled is not None and copied.source != settled:
            raise self._late([f"{copied.copied + copied.delete_markers} versions more, {copied.removed} fewer"])

    def explained(self, found: VerificationFailed) -> VerificationFailed | LateWrite:
        """What a failed verification is: a late write where the source is not what was copied from it."""
        return self._late([found.message]) if found.code == "source-differs" else found

    def still_settled(self) -> dict[str, Any]:
        """The last look before the new side serves. Raises LateWrite for anything that came since it settled."""
        meter = Meter(self.report, Progress(move="list", objects_total=self.manifest.totals().versions))
        found = self.manifest.compare(Where.SOURCE, self.source.list_versions(), meter.add)
        if not found.none:
            raise self._late(found.examples)
        uploads = [f"{key} (an unfinished upload)" for key, _ in islice(self.source.list_uploads(), EXAMPLES)]
        if uploads:
            raise self._late(uploads)
        heard = self._refuse_late_tags()
        return {"compared": found.compared, "tag_changes": heard}

    def _refuse_late_tags(self) -> int:
        """An event that says what is at the target already is only late itself."""
        count = 0
        while self.tag_queue is not None and (heard := self.tag_queue.hear()):
            differing = tags.differing_tags(self.transfer, tags.rows_of(self.manifest, heard.changes))
            if differing:
                raise self._late([f"the tags of {row.key} (version {row.version_id})" for row, _ in differing])
            self.tag_queue.forget(heard)
            count += len([change for change in heard.changes if not change.key.startswith(PROBES)])
        return count

    def _late(self, what: Sequence[str]) -> LateWrite:
        return LateWrite(
            f"{self.source.storage} changed after it had settled, past the closed gate of tenant {self.tenant}: "
            f"{'; '.join(what[:EXAMPLES])}; it was kept, and nothing was deleted",
            hint=f"find out who writes there and stop it, then: keyshift resume {self.tenant} (it settles anew and "
            "takes in what came)",
        )


def _may_hear(queue: tags.TagQueue) -> bool:
    """False for a while after a right was given or a queue was made: neither holds everywhere at once."""
    try:
        queue.is_empty()
    except CloudError as error:
        if error.cloud_code not in {"AccessDenied", "AccessDeniedException", "AWS.SimpleQueueService.NonExistentQueue"}:
            raise
        return False
    return True
