"""What each wait and move of a plan does to a live tenant. Every one is idempotent and may be killed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.index import INDICES
from components.worker.document import document_id
from migrate import pipeline, unreadable
from migrate.copy.manifest import Manifest, Where
from migrate.copy.preflight import require_movable, require_something
from migrate.copy.purge import Purge, prove_empty, purge
from migrate.copy.store import Store
from migrate.copy.transfer import Transfer
from migrate.copy.verify import verify_copied, verify_storage, verify_untouched
from migrate.deletion import inventory
from migrate.errors import KeyLost, KeyshiftError, VerificationFailed, Waiting
from migrate.failures import understood
from migrate.freeze import Freeze
from migrate.guard import Check, unguarded
from migrate.index import aliases
from migrate.index.fill import fill
from migrate.index.residue import prove_indices_gone, purge_indices
from migrate.index.verify import verify_index
from migrate.keys import confirmation
from migrate.keys import ops as key_ops
from migrate.live import Live
from migrate.log import Log
from migrate.operations import Move, Wait
from migrate.outage import passes_by_itself
from migrate.progress import Progress, Report
from migrate.records import Operation
from migrate.rekey import moves as in_place
from migrate.verdict import Verdict, VerdictKind, Verdicts
from stacks.layout import PipelineState

Found = dict[str, Any]

POLL_SECONDS = 1.0
CANARY_WITHIN_SECONDS = 300
LOCKED_TOO = "not asked for: what is under a lost key answers nobody, and goes with its deployment"


@dataclass(frozen=True, kw_only=True)
class Moves:
    """The moves of one operation on one tenant. `folder` is the tenant's state folder.

    `guard` is asked before each call that cannot be taken back whether this runner may still act.
    """

    live: Live
    operation: Operation
    folder: Path
    verdicts: Verdicts
    log: Log
    report: Report
    guard: Check = unguarded

    def wait(self, wait: Wait) -> Found:
        """Returns when the wait is over, raises Waiting while it is not."""
        return {
            "key-material": self._key_material,
            "key-usable": self._key_usable,
            "key-fit": lambda wait: key_ops.of(self.live).require_fit(wait.subject),
            "confirmed": lambda _: confirmation.require_confirmed(self.operation.request, self.live.layout),
        }[wait.kind](wait)

    def do(self, move: Move) -> Found:
        """Does a move, or the rest of it. What it returns goes into the operation's results."""
        actions: dict[str, Callable[[Move], Found]] = {
            "preflight": self._preflight,
            "copy": self._copy,
            "verify-copied": self._verify_copied,
            "fill": self._fill,
            "limit-search": self._limit_search,
            "settle": self._settle,
            "still-settled": self._still_settled,
            "verify-storage": self._verify_storage,
            "verify-index": self._verify_index,
            "canary": self._canary,
            "open-search": self._open_search,
            "prove-untouched": self._prove_untouched,
            "purge-target": self._purge_target,
            "purge-storage": self._purge_storage,
            "purge-search": self._purge_search,
            "prove-empty": self._prove_empty,
            "inventory": self._inventory,
            "retire-key": self._retire_key,
            **in_place.actions(self),
        }
        return actions[move.kind](move)

    # waits ------------------------------------------------------------------------------------

    def _key_material(self, wait: Wait) -> Found:
        ops = key_ops.of(self.live)
        material = ops.material(wait.subject)
        tenant = self.live.layout.tenant
        if material is None:
            raise Waiting(
                f"tenant {tenant} waits for {wait.reason}",
                waits_for="the customer's wrapped key",
                hint=f"keyshift key request {tenant}, key wrap by the customer, keyshift key upload {tenant}; "
                f"then keyshift resume {tenant}",
                code="key-material",
            )
        found = {"key": self.live.cloud.key_id(wait.subject), "fingerprint": material}
        return {**found, "filled": wait.subject, "material": material} if ops.pins_storages else found

    def _key_usable(self, wait: Wait) -> Found:
        said = self.key_refusal(wait.subject)
        if said:
            raise KeyLost(self.live.layout.tenant, wait.subject, said)
        key_ops.of(self.live).require_in_storages(wait.subject)
        return {"key": self.live.cloud.key_id(wait.subject)}

    def key_refusal(self, key: str) -> str:
        """What the cloud answers when the runner really uses the key, "" if it works. Raises CloudError for no word on it."""
        return self.live.cloud.key_refusal(key)

    def lost_key(self) -> KeyLost | None:
        """The first key in use that cannot be used now, with KMS's answer. None also while KMS cannot be asked."""
        layout = self.live.layout
        made = self.live.outputs.get("keys", {})
        ended = {key.id for key in self.operation.request.ended}  # waiting for one of these would never end
        for key in sorted({unit.key for unit in (*layout.storages, *layout.searches) if unit.key} - ended):
            if (key in made or layout.key(key).arn) and (said := self._refusal_if_any(key)):
                return KeyLost(layout.tenant, key, said)
        return None

    def _refusal_if_any(self, key: str) -> str:
        """As `key_refusal`; "" where KMS gave no answer about the key: the step's own error says then what is wrong."""
        try:
            return self.key_refusal(key)
        except Exception as error:
            failed = understood(error)
            if failed is None or not _is_no_word_about_a_key(failed):
                raise
            return ""

    def _retire_key(self, move: Move) -> Found:
        """Nothing is under the key any more, which the verdict says: its material is put out of use."""
        verdict = self.verdicts.load(str(move.verdict))
        if verdict is None or not verdict.passed or move.key is None:
            raise VerificationFailed(
                f"there is no verdict {move.verdict} that nothing is left under {move.key}; it stays in use",
                hint=f"keyshift status {self.live.layout.tenant}",
            )
        self.guard()
        key_ops.of(self.live).enable(move.key, is_enabled=False)
        return {"key": move.key, "disabled_under": verdict.id}

    # copy and fill ----------------------------------------------------------------------------

    def _sides(self, move: Move) -> tuple[Store, Store]:
        return self.live.storage(_named(move.storage)), self.live.storage(_named(move.target))

    def _transfer(self, move: Move, manifest: Manifest) -> Transfer[Any]:
        return Transfer(*self._sides(move), manifest)

    def _manifest(self, move: Move) -> Manifest:
        source, target = self._sides(move)
        if move.storage == move.target:
            return in_place.in_place_manifest(self.manifest_path, source)
        return Manifest.open(self.manifest_path, source.storage, target.storage)

    @property
    def manifest_path(self) -> Path:
        return self.folder / "operations" / self.operation.moves_of / "manifest.sqlite"

    def _preflight(self, move: Move) -> Found:
        """Once more, now that the target stands: much may have been archived while a key was waited for."""
        source, target = self._sides(move)
        again = f"keyshift resume {self.live.layout.tenant}"
        found = require_movable(self.live.cloud.survey(source, target.storage.prefix, self.report), source, again)
        return asdict(require_something(found, source, again))

    def _copy(self, move: Move) -> Found:
        with self._manifest(move) as manifest:
            freeze = self._freeze(move, manifest)
            followed = freeze.follow_tags()
            copied = self.live.cloud.copy_pass(freeze.transfer, self.report)
            freeze.refuse_late(copied)
            return {**asdict(copied), "tags_followed": followed}

    def _verify_copied(self, move: Move) -> Found:
        with self._manifest(move) as manifest:
            return {"verified": verify_copied(self._transfer(move, manifest), self.operation.id, self.report)}

    def _fill(self, move: Move) -> Found:
        search = _named(move.search)
        with self._manifest(move) as manifest:
            made = fill(
                self.live.storage(_named(move.target)),
                manifest,
                self.live.search(search),
                self.live.outputs["searches"][search]["index"],
                self.report,
            )
        return asdict(made)

    # gate -------------------------------------------------------------------------------------

    def _limit_search(self, move: Move) -> Found:
        cutoff = self.operation.cutoff
        if cutoff is None:
            raise KeyshiftError(f"{self.operation.id} has no cut-off yet", code="no-cutoff")
        return self._set_alias(_named(move.search), cutoff)

    def _open_search(self, move: Move) -> Found:
        pipeline.open_edits(self.live.search(_named(move.search)))
        return self._set_alias(_named(move.search), None)

    def _set_alias(self, search: str, cutoff: datetime | None) -> Found:
        unit = self.live.outputs["searches"][search]
        aliases.set_read_alias(self.live.search(search), unit["index"], unit["read_alias"], cutoff)
        return {"search": search, "cutoff": cutoff.isoformat() if cutoff else None}

    def _settle(self, move: Move) -> Found:
        with self._manifest(move) as manifest:
            return self._freeze(move, manifest).settle()

    def _still_settled(self, move: Move) -> Found:
        with self._manifest(move) as manifest:
            return self._freeze(move, manifest).still_settled()

    def _freeze(self, move: Move, manifest: Manifest) -> Freeze:
        storage, cloud = _named(move.storage), self.live.cloud
        listening = [
            p for p in self.live.layout.pipelines if p.storage == storage and p.state is not PipelineState.DETACHED
        ]
        return Freeze(
            tenant=self.live.layout.tenant,
            operation=self.operation.id,
            transfer=self._transfer(move, manifest),
            writers=cloud.writers(storage),
            workers=cloud.workers([unit.id for unit in listening if self._serves(unit.id)]),
            edits=self._take_in_edits if any(self._serves(unit.id) for unit in listening) else None,
            pipes=[cloud.pipe(unit.id) for unit in listening],
            tag_queue=cloud.tag_queue(storage),
            queues=cloud.queues,
            refused_within=cloud.refused_within,
            verdicts=self.verdicts,
            log=self.log,
            report=self.report,
            until=self.until,
        )

    def _serves(self, unit: str) -> bool:
        return self.live.layout.serves is not None and self.live.layout.serves.pipeline == unit

    def _take_in_edits(self) -> Found:
        """Close the search that serves for edits, and apply what is left of them."""
        serves = self.live.serves
        pipeline.close_edits(self.live.search(serves.search))
        self.guard()
        return pipeline.drain(self.live, serves.storage, serves.search)

    def until(self, is_so: Callable[[], bool], what: str, limit: float) -> float:
        """Polls until a condition holds; returns the seconds. Raises Waiting, naming it, after `limit` seconds."""
        began = time.monotonic()
        while not is_so():
            seconds = time.monotonic() - began
            if seconds > limit:
                raise Waiting(
                    f"{what} took more than {limit:.0f} s",
                    waits_for=what,
                    hint=f"keyshift resume {self.live.layout.tenant} goes on waiting",
                    code="still-waiting",
                )
            self.report(Progress(move="wait", waiting=what))
            time.sleep(POLL_SECONDS)
        return round(time.monotonic() - began, 2)

    # proofs -----------------------------------------------------------------------------------

    def _verify_storage(self, move: Move) -> Found:
        started = datetime.now(UTC)
        with self._manifest(move) as manifest:
            transfer = self._transfer(move, manifest)
            try:
                found = verify_storage(transfer, self.operation.id, self.report)
            except VerificationFailed as failed:
                raise self._freeze(move, manifest).explained(failed) from failed
        verdict = self.sign(
            move,
            VerdictKind.STORAGE,
            _named(move.storage),
            started,
            counts={
                "versions": found.versions,
                "objects": found.objects,
                "delete_markers": found.delete_markers,
                "streamed": found.streamed,
            },
            bytes=found.bytes,
            merkle_root=found.merkle_root,
            manifest_sha256=found.manifest_sha256,
            details={"source": str(transfer.source.storage), "target": str(transfer.target.storage)},
        )
        # Nothing counts as verified that was not compared; verify_storage raises otherwise.
        return {**asdict(found), "verified": found.versions, "verdict": verdict}

    def _verify_index(self, move: Move) -> Found:
        started, search = datetime.now(UTC), _named(move.search)
        with self._manifest(move) as manifest:
            found = verify_index(
                self.live.storage(_named(move.target)),
                manifest,
                self.live.search(search),
                self.live.outputs["searches"][search]["index"],
                self.report,
            )
            digest = manifest.digest()
        serving = self.operation.start.serves
        verdict = self.sign(
            move,
            VerdictKind.INDEX,
            serving.search if serving else search,
            started,
            counts={"expected": found.expected, "found": found.found},
            manifest_sha256=digest,
            details={"target": search},
        )
        return {**asdict(found), "verdict": verdict}

    def _inventory(self, move: Move) -> Found:
        started = datetime.now(UTC)
        if move.storage is None:
            return {"verdict": self.sign(move, VerdictKind.INVENTORY, "", started, counts={"versions": 0})}
        with self._manifest(move.model_copy(update={"target": move.storage})) as manifest:
            freeze = self._freeze(move.model_copy(update={"target": move.storage}), manifest)
            freeze.void_verdicts()
            no_key = self._unreadable()
            found = inventory(freeze, self.report, no_key)
        verdict = self.sign(
            move,
            VerdictKind.INVENTORY,
            move.storage,
            started,
            counts={"versions": found.versions, "delete_markers": found.delete_markers, "objects": found.objects},
            bytes=found.bytes,
            manifest_sha256=found.manifest_sha256,
            details={"storage": str(freeze.source.storage), **(no_key or {})},
        )
        return {**asdict(found), "verdict": verdict}

    def _unreadable(self) -> dict[str, Any] | None:
        """What the end of its keys means for a tenant that is deleted because of it; None for any other operation."""
        ended = self.operation.request.ended
        return unreadable.require_ended(self.live.layout.tenant, ended, self.key_refusal) if ended else None

    def _locked(self, search: str) -> str:
        """What the deployment answers whose key has ended; "" where its indices can be deleted as ever."""
        ended = {key.id for key in self.operation.request.ended}
        is_under_one = bool(ended) and self.live.layout.search(search).key in ended
        return unreadable.locked(self.live.search(search)) if is_under_one else ""

    def _prove_empty(self, move: Move) -> Found:
        started, storage = datetime.now(UTC), _named(move.storage)
        side = self.live.storage(storage)
        left = prove_empty(side)
        details: dict[str, Any] = {"storage": str(side.storage)}
        details |= self._unreadable() or {}
        if move.search is not None and (said := self._locked(move.search)):
            details |= {"search": move.search, "index": f"locked by its lost key: {said}", "snapshots": LOCKED_TOO}
        elif move.search is not None:
            snapshots = prove_indices_gone(self.live.search(move.search), INDICES)
            details |= {"search": move.search, "index": f"{', '.join(INDICES)} are gone", "snapshots": snapshots.fact}
        count = left.versions + left.delete_markers + left.uploads
        verdict = self.sign(move, VerdictKind.PURGE, storage, started, counts=asdict(left), details=details)
        return {"left_behind": count, **asdict(left), "verdict": verdict, **details}

    def sign(self, move: Move, kind: VerdictKind, subject: str, started: datetime, **facts: Any) -> str:
        """Signs, stores and logs a passed verdict, once: a step that is run again finds it and keeps it."""
        id = _named(move.verdict)
        if self.verdicts.load(id) is None:
            made = Verdict(
                id=id,
                kind=kind,
                tenant=self.live.layout.tenant,
                operation=self.operation.id,
                subject=subject,
                passed=True,
                started_at=started,
                finished_at=datetime.now(UTC),
                **facts,
            )
            self.verdicts.store(made)
        told = [line["event"]["event"] for line in self.log.events() if line["event"].get("verdict") == id]
        if told[-1:] != ["verdict"]:  # not told yet, or told to be void since
            stored = self.verdicts.load(id)
            signed = hashlib.sha256(stored.signed_bytes()).hexdigest() if stored else ""
            about = {"verdict": id, "kind": str(kind), "operation": self.operation.id, "sha256": signed}
            self.log.append({"event": "verdict", **about})
        return id

    # the new pipeline, the old side -----------------------------------------------------------

    def _canary(self, move: Move) -> Found:
        """One object goes bucket -> search, and its removal too; nothing of it stays on either side."""
        target, search = self.live.storage(_named(move.target)), _named(move.search)
        client, index = self.live.search(search), self.live.outputs["searches"][search]["index"]
        key, now = self._canary_key, datetime.now(UTC)
        at = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # Of the clock: higher than the one of an attempt that was cut off, which the search may still know.
        revision = int(now.timestamp() * 1000)
        target.put(key, b"canary", {"archived-at": at, "revision": str(revision)})

        def deleted() -> bool | None:
            answer = client.options(ignore_status=404).get(index=index, id=document_id(key))
            is_ours = answer.get("found") and answer["_source"]["revision"] == revision
            return answer["_source"]["deleted"] if is_ours else None

        there = self.until(lambda: deleted() is False, "the canary to reach the search", CANARY_WITHIN_SECONDS)
        self._remove_canary(target)
        gone = self.until(lambda: deleted() is True, "the canary's removal to reach the search", CANARY_WITHIN_SECONDS)
        client.delete(index=index, id=document_id(key), refresh=True)
        return {"arrived_after": there, "removed_after": gone}

    @property
    def _canary_key(self) -> str:
        return f"attachments/.keyshift-canary-{self.operation.moves_of}"

    def _remove_canary(self, target: Store) -> None:
        for entry in target.list_versions(self._canary_key):
            if entry.key == self._canary_key:
                target.delete_version(entry.key, entry.version_id)

    def _prove_untouched(self, move: Move) -> Found:
        """Settles what the aborted operation left in the middle of, and proves that none of it is needed."""
        started, target = datetime.now(UTC), _named(move.target)
        with self._manifest(move) as manifest:
            transfer = self._transfer(move, manifest)
            self.guard()
            self.live.cloud.tidy(transfer)
            self._remove_canary(transfer.target)
            found = verify_untouched(transfer, self.report)
        details = {"source": str(transfer.source.storage), "target": str(transfer.target.storage)}
        verdict = self.sign(
            move,
            VerdictKind.UNTOUCHED,
            target,
            started,
            counts={"versions": found.versions, "newer": found.newer},
            manifest_sha256=found.manifest_sha256,
            details=details,
        )
        return {**asdict(found), "verdict": verdict, **details}

    def _purge_target(self, move: Move) -> Found:
        return self._purged(move, _named(move.target), Where.TARGET)

    def _purge_storage(self, move: Move) -> Found:
        return self._purged(move, _named(move.storage), Where.SOURCE)

    def _purged(self, move: Move, storage: str, where: Where) -> Found:
        verdict = self.verdicts.load(_named(move.verdict))
        if verdict is None:
            raise VerificationFailed(
                f"the verdict {move.verdict} does not exist; nothing was deleted", code="no-verdict"
            )
        with self._manifest(move) as manifest:
            purged = purge(Purge(self.live.storage(storage), where, manifest, verdict, self.guard), self.report)
        return asdict(purged)

    def _purge_search(self, move: Move) -> Found:
        """Deletes the old deployment's indices; the deployment itself goes with the next layout."""
        search = _named(move.search)
        verdict = self.verdicts.load(_named(move.verdict))
        if verdict is None or not verdict.passed:
            raise VerificationFailed(f"the verdict {move.verdict} does not cover {search}", code="no-verdict")
        client = self.live.search(search)
        if said := self._locked(search):
            return {"search": search, "indices": [], "locked": said, "snapshots": LOCKED_TOO}
        self.guard()
        last = pipeline.take_in_last(self.live, search) if self.live.layout.serves else {}
        self.guard()
        gone = purge_indices(client, INDICES)
        snapshots = prove_indices_gone(client, INDICES)
        return {
            **last,
            "search": search,
            "indices": list(INDICES),
            "snapshots_deleted": gone,
            "snapshots": snapshots.fact,
        }


def _is_no_word_about_a_key(failed: KeyshiftError) -> bool:
    return passes_by_itself(failed) or failed.code == "clock"


def _named(value: str | None) -> str:
    if value is None:
        raise KeyshiftError("a move of the plan lacks a part that it needs", code="plan-incomplete")
    return value
