"""The vendor's key of a stamp is rotated: a new key, and nothing left under the old one.

Every part can be cut off and run again by the same command: what has been done is read from the stamp's stack file, its
verdicts and the stacks' outputs. The order is what keeps jobs going: a tenant's roles may use the new key before the
bucket writes under it, and the old key stays until the last object, upload and search has left it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import ClientError

from components import naming
from migrate import aws, durable
from migrate.copy.s3 import Side, StorageRef, prepare
from migrate.errors import KeyshiftError, RefusedInput, VerificationFailed, Waiting
from migrate.events import Tell
from migrate.files import write_private
from migrate.fleet import Came, Fleet, Row
from migrate.live import Live
from migrate.log import Log
from migrate.operations import OperationKind
from migrate.progress import Progress, Report
from migrate.records import Records
from migrate.rekey.engine import Job, drain, redirected, rekey_pass
from migrate.rekey.moves import REDIRECTED_WITHIN_SECONDS, in_place_manifest
from migrate.runner import Runner
from migrate.stack import Project, Stack, Step, write_atomically
from migrate.verdict import Verdict, VerdictKind, Verdicts
from stacks.config import VENDOR_KEYS, StampSettings
from stacks.layout import Mode
from stacks.record import connect

Data = dict[str, Any]
POLL_SECONDS = 2.0
LET_IN_WITHIN_SECONDS = 300
"""How long a role that was given a right may still be refused: IAM is eventually consistent."""
PARALLEL = 2


@dataclass(frozen=True)
class Rotation:
    """`number`: of the new key. `old`: ARN of the one that everything is under when it begins."""

    stamp: str
    number: int
    old: str

    @property
    def id(self) -> str:
        return f"{self.stamp}-rotate-{self.number}"

    @property
    def verdict(self) -> str:
        return f"{self.id}-drained"


class StampRotation:
    """One rotation of a stamp's vendor key. `patience`: how long a tenant's operation waits for a lost key."""

    def __init__(self, project: Project, stamp: str, tell: Tell, report: Report, *, patience: float = 0.0) -> None:
        self._project, self._name, self._tell, self._report, self._patience = project, stamp, tell, report, patience
        self._records = Records(connect(project.home))
        self._stack = Stack(project, StampSettings.parse(stamp).name)
        if not self._stack.outputs():
            raise RefusedInput(
                f"the stamp {stamp} has not been brought up", hint="keyshift stamp list", code="unknown-stamp"
            )
        self._folder = project.home / "stamps" / stamp
        self._verdicts, self._log = Verdicts(self._folder), Log(self._folder)

    # what there is to do ----------------------------------------------------------------------

    def plan(self) -> Data:
        """What a rotation would do, or what is left of one. Changes nothing."""
        rotation, begun = self._rotation()
        return {
            "stamp": self._name,
            "goes_on": begun,
            "vendor_key": rotation.old,
            "new_vendor_key": rotation.number,
            "tenants": self._tenants(),
            "searches": [name for name, layout in self._standard() if layout.serves is not None],
        }

    def _rotation(self) -> tuple[Rotation, bool]:
        """The rotation that was begun and has not ended, else the next one; whether it was begun."""
        if self._begun.exists():
            return Rotation(self._name, **json.loads(self._begun.read_text(encoding="utf-8"))), True
        return Rotation(self._name, self._settings().vendor_keys + 1, self._arns()[-1]), False

    @property
    def _begun(self) -> Path:
        """What a rotation that has not ended is known by: its number and the old key."""
        return self._folder / "rotation.json"

    def _arns(self) -> list[str]:
        """The vendor keys that something may lie under, oldest first, as the stamp's stack says."""
        outputs = self._stack.outputs()
        return outputs.get("vendor_key_arns") or [outputs["vendor_key_arn"]]

    def _settings(self) -> StampSettings:
        config = self._file().get("config") or {}
        held = {field: config[key] for name, field in VENDOR_KEYS.items() if (key := f"keyshift:{name}") in config}
        return StampSettings.parse(self._name, **held)

    def _file(self) -> Data:
        file = self._stack.file
        return (yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None) or {}

    def _tenants(self) -> list[str]:
        return [one.name for one in self._records.tenants() if one.layout.stamp == self._name]

    def _standard(self) -> list[tuple[str, Any]]:
        held = self._records.tenants()
        return [
            (one.name, one.layout)
            for one in held
            if one.layout.stamp == self._name and one.layout.mode is Mode.STANDARD
        ]

    # the rotation -----------------------------------------------------------------------------

    def run(self) -> Data:
        """Rotates, or goes on. Raises Waiting for a tenant that has to be opened or finished first."""
        with durable.single_runner(self._folder, self._name):
            rotation, begun = self._rotation()
            if not begun:
                self._refuse_busy()
                self._log.append({"event": "vendor-key-rotation-begun", "operation": rotation.id, "key": rotation.old})
                kept = {"number": rotation.number, "old": rotation.old}
                write_private(self._begun, json.dumps(kept).encode())
            old, new = rotation.old, self._made(rotation)
            if self._stack.outputs()["vendor_key_arn"] != new:
                self._brought_up("let the tenants' roles use the new key")
                self._until_let_in(new)
                self._set(rotation, vendor_key=rotation.number)
            verdict = self._drained(rotation, old, new)
            moved = self._searches_moved(new)
            if self._arns() != [new]:
                self._set(rotation, oldest_vendor_key=rotation.number)
            self._brought_up("take the old key from the tenants' roles")
            about = {"operation": rotation.id, "key": old, "verdict": verdict.id}
            self._log.append({"event": "vendor-key-archived", **about})
            self._begun.unlink()
        return {
            "stamp": self._name,
            "operation": rotation.id,
            "from": old,
            "to": new,
            "versions": verdict.counts["versions"],
            "uploads_aborted": verdict.counts["uploads_aborted"],
            "left": verdict.counts["under_another_key"],
            "verdict": verdict.id,
            "searches": moved,
            "archived": old,
            "file": str(self._folder / "verdicts" / f"{verdict.id}.json"),
        }

    def _refuse_busy(self) -> None:
        """Before anything is made: a tenant that cannot be brought up would stop the rotation halfway."""
        for name in self._tenants():
            self._records.refuse_sealed(name)
            if (unfinished := self._records.unfinished(name)) is not None:
                raise RefusedInput(
                    f"tenant {name} of {self._name} is in the middle of {unfinished.id}; nothing was changed",
                    hint=f"keyshift resume {name}, then keyshift stamp rotate {self._name}",
                    code="operation-unfinished",
                )

    def _made(self, rotation: Rotation) -> str:
        """The ARN of the new key, which is made beside the old one if it is not there."""
        if self._arns()[-1] == rotation.old:
            self._set(rotation, vendor_keys=rotation.number)
        return self._arns()[-1]

    def _set(self, rotation: Rotation, **numbers: int) -> None:
        """Writes numbers into the stamp's stack file and brings the stamp up; nothing of it may go or be replaced."""
        wanted = self._settings().model_copy(update=numbers)
        held = self._file()
        config = {**(held.get("config") or {})}
        config |= {f"keyshift:{name}": getattr(wanted, field) for name, field in VENDOR_KEYS.items()}
        write_atomically(self._stack.file, yaml.safe_dump({**held, "config": config}, sort_keys=True))
        self._stack.recover()
        with tempfile.TemporaryDirectory(prefix="keyshift-") as folder:
            plan = Path(folder) / "plan.json"
            self._report(Progress(move="preview"))
            _refuse_loss(self._name, self._stack.preview(plan_file=plan))
            self._report(Progress(move="up"))
            self._stack.up(plan_file=plan)
        self._log.append({"event": "stamp-up", "operation": rotation.id, **numbers})

    def _brought_up(self, why: str) -> None:
        """Every tenant of the stamp, so that its stack agrees with what the stamp says. Raises Waiting."""
        tenants = [one for one in self._records.tenants() if one.layout.stamp == self._name]
        done: list[Row] = []

        def told(row: Row) -> None:
            done.append(row)
            self._report(Progress(move=f"fleet: {row.came}", objects=len(done), objects_total=len(tenants)))

        rows = Fleet(self._project, self._records, bring_up=True, told=told).run(tenants, PARALLEL)
        left = [row for row in rows if row.came not in {Came.NO_CHANGE, Came.CHANGED}]
        if left:
            first = next((row for row in left if row.because), left[0])
            raise Waiting(
                f"{len(left)} tenants of {self._name} could not be brought up to {why}, the first of them "
                f"{first.tenant}: {first.because}",
                waits_for=f"tenant {first.tenant}",
                hint=f"{first.hint or f'keyshift status {first.tenant}'}; then keyshift stamp rotate {self._name}",
                code="tenant-not-up",
            )

    def _until_let_in(self, new: str) -> None:
        """Each tenant's own role really uses the new key: what was given may not hold everywhere yet."""
        for name in self._tenants():
            kms = Live.find(self._project, name).client("runner", "kms")
            self._until(lambda kms=kms: _may_use(kms, new), f"the roles of tenant {name} to be let at the new key")

    def _until(self, is_so: Callable[[], bool], what: str, limit: float = LET_IN_WITHIN_SECONDS) -> None:
        began = time.monotonic()
        while not is_so():
            if time.monotonic() - began > limit:
                raise Waiting(
                    f"{what} took more than {limit:.0f} s",
                    waits_for=what,
                    hint=f"keyshift stamp rotate {self._name} goes on waiting",
                    code="still-waiting",
                )
            self._report(Progress(move="wait", waiting=what))
            time.sleep(POLL_SECONDS)

    # the shared bucket ------------------------------------------------------------------------

    def _drained(self, rotation: Rotation, old: str, new: str) -> Verdict:
        """The signed proof that no version and no upload of the shared bucket is under the old key."""
        held = self._verdicts.load(rotation.verdict)
        if held is not None:
            return held
        started = datetime.now(UTC)
        side = self._bucket(new)
        path = self._folder / "operations" / rotation.id
        path.mkdir(parents=True, exist_ok=True)
        with in_place_manifest(path / "manifest.sqlite", side) as manifest:
            job = Job(side, manifest, has_bucket_key=True)
            what = f"new writes to {side.storage} to come under the new key"
            self._until(lambda: redirected(job) is not None, what, REDIRECTED_WITHIN_SECONDS)
            since = redirected(job)
            if since is None:
                raise KeyshiftError(f"{what} was seen and is not noted", code="not-noted")
            rekey_pass(job, self._report)
            rekey_pass(job, self._report)
        with in_place_manifest(path / "drained.sqlite", side) as manifest:
            found = drain(Job(side, manifest, has_bucket_key=True), rotation.verdict, since, self._report)
        made = Verdict(
            id=rotation.verdict,
            kind=VerdictKind.DRAINED,
            tenant=self._name,
            operation=rotation.id,
            subject="shared",
            passed=True,
            counts={
                "versions": found.versions,
                "delete_markers": found.delete_markers,
                "under_another_key": 0,
                "uploads_aborted": found.uploads_aborted,
            },
            bytes=found.bytes,
            merkle_root=found.merkle_root,
            manifest_sha256=found.manifest_sha256,
            started_at=started,
            finished_at=datetime.now(UTC),
            details={"storage": str(side.storage), "from": old, "to": new},
        )
        self._verdicts.store(made)
        signed = hashlib.sha256(made.signed_bytes()).hexdigest()
        about = {"verdict": made.id, "kind": str(made.kind), "operation": rotation.id, "sha256": signed}
        self._log.append({"event": "verdict", **about})
        return made

    def _bucket(self, key_arn: str) -> Side:
        """The whole shared bucket, as who runs the command: no tenant's role reaches another tenant's prefix."""
        outputs = self._stack.outputs()
        s3 = prepare(aws.client(aws.operator(outputs["region"]), "s3", pool=32))
        return Side(s3, StorageRef(outputs["bucket"], "", key_arn))

    # the searches -----------------------------------------------------------------------------

    def _searches_moved(self, new: str) -> list[str]:
        """A new search under the new key for each standard tenant whose search is not; the tenants that got one."""
        moved = []
        for name, layout in self._standard():
            unfinished = self._records.unfinished(name)
            is_ours = unfinished is not None and unfinished.request.vendor_key == new
            if is_ours or (layout.serves and self._search_key(name, layout.serves.search) != new):
                runner = Runner(self._project, name, self._tell, patience=self._patience)
                if is_ours:
                    runner.resume()
                else:
                    runner.run(OperationKind.ROTATE, asked={"vendor_key": new})
                moved.append(name)
        for name, layout in self._standard():
            if layout.serves and (still := self._search_key(name, layout.serves.search)) != new:
                raise VerificationFailed(
                    f"the search {layout.serves.search} of tenant {name} lies under {still}, not under {new}; "
                    "the old key stays in use",
                    hint=f"keyshift tenant show {name}, then keyshift stamp rotate {self._name}",
                    code="search-under-old-key",
                )
        return moved

    def _search_key(self, tenant: str, search: str) -> str:
        return str(Stack(self._project, naming.tenant_stack(tenant)).outputs()["searches"][search]["key_arn"])


def _may_use(kms: Any, key_arn: str) -> bool:
    try:
        kms.generate_data_key(KeyId=key_arn, KeySpec="AES_256")
    except ClientError as error:
        if aws.code_of(error) == "AccessDeniedException":
            return False
        raise aws.explained(error, f"trying the key {key_arn}") from error
    return True


def _refuse_loss(stamp: str, steps: list[Step]) -> None:
    """Raises KeyshiftError for a preview of a stamp that would delete or replace something."""
    wrong = [f"{step.op} {step.name}" for step in steps if "replace" in step.op or step.op == "delete"]
    if wrong:
        raise KeyshiftError(
            f"the preview of {stamp} would {', '.join(wrong)}, which a rotation does not ask for; nothing was changed",
            hint=f"look at it: pulumi preview -s {stamp} --diff",
            code="unexpected-plan",
        )
