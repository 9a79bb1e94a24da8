"""The emergency lock of a tenant, and its lifting.

A seal stands outside any plan and needs no engine, no lock and no finished operation. It is recorded
first, which stops a runner at its next step; then everything is denied by direct calls; then every path
is tried until it is refused. All of it can be killed anywhere and done again.

A restore is its inverse: the keys come back first, the runner proves that it can read, then the denials
are undone, and only then the record says that the tenant is open.
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from elastic_transport import TransportError
from elasticsearch import ApiError

from components import naming
from migrate import aws, denials, durable, failures, probes
from migrate.denials import Denial, Done, Estate
from migrate.errors import CloudError, Conflict, KeyshiftError, RefusedInput, VerificationFailed, Waiting
from migrate.guard import Guard
from migrate.integrity import COUNTED_AT_MOST, Inventories, Wanted, read_back, take
from migrate.log import Log
from migrate.probes import Path as Way
from migrate.probes import Seen
from migrate.progress import Progress
from migrate.records import Records
from migrate.seals import Lost, Seal, Seals
from migrate.stack import Project, Stack, judge
from stacks.layout import Layout
from stacks.record import connect

Data = dict[str, Any]
Report = Callable[[Progress], None]

ENGINE_SECONDS = 30.0
"""How long an engine may go on with the call that it is in, before it is killed."""
POLL_SECONDS = 1.0
RENEW_SECONDS = 15
UNLOCKS = "locked by its lost key, so its credentials keep their rights; run it again once the key is back"


@dataclass(frozen=True)
class Sealer:
    """What a seal and a restore of one tenant work with."""

    project: Project
    tenant: str
    report: Report
    records: Records = field(init=False)
    seals: Seals = field(init=False)
    inventories: Inventories = field(init=False)

    def __post_init__(self) -> None:
        engine = connect(self.project.home)
        object.__setattr__(self, "records", Records(engine))
        object.__setattr__(self, "seals", Seals(engine))
        object.__setattr__(self, "inventories", Inventories(engine))
        self.records.tenant(self.tenant)

    @property
    def folder(self) -> Path:
        return self.project.home / "tenants" / self.tenant

    @cached_property
    def log(self) -> Log:
        return Log(self.folder)

    @cached_property
    def stack(self) -> Stack:
        return Stack(self.project, naming.tenant_stack(self.tenant))

    def estate(self, layout: Layout | None = None) -> Estate:
        """The tenant's resources, as a layout names them; the record's own if none is given."""
        layout = layout or self.records.tenant(self.tenant).layout
        operator = aws.operator(layout.region)
        account = aws.client(operator, "sts").get_caller_identity()["Account"]
        return Estate(layout, account, operator, self._key_arns)

    def _key_arns(self) -> dict[str, str]:
        return {id: key["arn"] for id, key in self.stack.outputs().get("keys", {}).items()}

    # sealing ----------------------------------------------------------------------------------

    def seal(
        self, reason: str, *, limit: float, lost: Lost | None = None, count_at_most: int | None = COUNTED_AT_MOST
    ) -> Data:
        """Closes the tenant and measures how long each path takes to be refused.

        Every denial is tried, whatever becomes of the others; `still_open` lists what failed and what
        was not refused within `limit` seconds. `lost`: the watch closes it, for that key of the customer's,
        whose state stays the customer's. Raises RefusedInput when the watch would close what a person has closed.
        """
        if not reason.strip():
            raise RefusedInput(
                "a seal needs a reason, for those who find it",
                hint=f'keyshift seal {self.tenant} --reason "…"',
                code="no-reason",
            )
        if lost is not None:
            self.records.refuse_sealed(self.tenant)
        began, asked_by = time.monotonic(), f"the watch, {who()}" if lost else who()
        seal = self.seals.put(self.tenant, reason, asked_by, lost)
        cause = {"key": lost.key, "cause": lost.cause} if lost else {}
        self.log.append({"event": "sealed", "by": asked_by, "reason": reason, "since": seal.at.isoformat(), **cause})
        estate = self._estate_of_a_sealed()
        found, urls = self._made_before(estate)
        done = self._deny(estate, seal)
        ended, elsewhere = self._end_engines()
        if ended or elsewhere:  # what an engine was about to write may have opened something again
            done = self._deny(estate, self.seals.newest(self.tenant) or seal)
        found = probes.samples(estate) | found
        seen = probes.until_refused(probes.paths(estate, found, urls), began, limit, self.report)
        still_open = [f"{one.id}: {one.because}" for one in done if one.failed]
        still_open += [f"{one.id}: {UNLOCKS}" for one in done if one.came_to == denials.LOCKED and seal.lost is None]
        still_open += [
            f"{one.name} of {one.unit} as {one.role}: answered {one.said}" for one in seen if one.after is None
        ]
        still_open += elsewhere
        slowest = max((one.after for one in seen if one.after is not None), default=None)
        self.log.append({"event": "seal-probed", "slowest": slowest, "still_open": still_open})
        counted, uncounted = take(estate, count_at_most, self.report)
        self.inventories.put(seal.id, counted)
        return {
            "tenant": self.tenant,
            "reason": seal.reason,
            "by": seal.by,
            "at": seal.at.isoformat(),
            "denials": [asdict(one) for one in done],
            "engines": ended,
            "paths": [asdict(one) for one in seen],
            "still_open": still_open,
            "counted": [asdict(one) for one in counted],
            "uncounted": uncounted,
        }

    def _estate_of_a_sealed(self) -> Estate:
        try:
            return self.estate()
        except (BotoCoreError, ClientError) as error:
            raise CloudError(
                f"tenant {self.tenant} is recorded as sealed, so no runner goes on, but nothing was denied: {error}",
                hint="mend the access to AWS, then run the same command again",
                code="seal-incomplete",
            ) from error

    def _made_before(self, estate: Estate) -> tuple[dict[str, str], dict[str, str]]:
        """An object of each storage, and a URL to it signed as Archive before anything is denied."""
        try:
            found = probes.samples(estate)
            return found, probes.presigned(estate, found)
        except (ClientError, BotoCoreError, KeyshiftError):
            return {}, {}  # a seal does not wait for what it only wants to try afterwards

    def _deny(self, estate: Estate, seal: Seal) -> list[Done]:
        """The data first, then the keys; what was denied before and can no longer be reached stays denied."""
        done = denials.carry_out(denials.data_denials(estate), lambda one: one.deny())
        if seal.lost is None:
            done += denials.carry_out(denials.key_denials(estate), lambda one: one.deny())
        done = [
            Done(one.id, one.what, denials.BEFORE) if not one.holds and one.id in seal.denied else one for one in done
        ]
        self.seals.note_denied(seal, {one.id for one in done if one.holds} | seal.denied)
        return done

    def _end_engines(self) -> tuple[list[str], list[str]]:
        """(the engines that were ended, those that may still write): a seal goes on without any engine too."""
        try:
            ended, elsewhere = self.stack.interrupt(ENGINE_SECONDS)
        except Exception as error:  # noqa: BLE001 - the paths have to be tried, whatever this is
            said = failures.explained(error).message
            return [], [
                f"an engine may be at work on {naming.tenant_stack(self.tenant)}, which could not be seen: {said}"
            ]
        return ended, [f"{one}; end it there, then seal again" for one in elsewhere]

    # restoring --------------------------------------------------------------------------------

    def restore(
        self,
        reason: str,
        *,
        limit: float,
        wanted: Wanted | None = None,
        only_lost: bool = False,
        opened: Callable[[Layout], Layout] = lambda layout: layout,
    ) -> Data:
        """Opens the tenant again, once the runner has read what lies in it.

        `opened`: the layout with what a revocation had taken away. `only_lost`: the watch asks, so only what
        the watch closed. Raises RefusedInput when it is not sealed, VerificationFailed when the data is not or
        cannot be read as it was (then the keys are disabled again), Waiting when something needs more than
        `limit` seconds.
        """
        seal = self.to_lift(only_lost=only_lost)
        with durable.single_runner(self.folder, self.tenant), self.lease() as guard:
            layout = opened(self.records.tenant(self.tenant).layout)
            estate = self.estate(layout)
            checked: list[Data] = []
            if seal.lifted_at is None:
                checked = self._check_and_undo(estate, guard, seal, limit, wanted or Wanted())
                self.records.advance(layout, guard.fence)
                self.seals.lift(self.tenant, who(), guard.fence)
                self.log.append({"event": "restored", "by": who(), "reason": reason, "was_sealed_for": seal.reason})
            record = self.records.tenant(self.tenant)
            changes = self.bring_up(record.layout, record.generation, guard, "restore")
            seen = self._until_open(self.estate(), guard, limit)
            self.seals.note_open(seal)
        unfinished = self.records.unfinished(self.tenant)
        return {
            "tenant": self.tenant,
            "was_sealed_for": seal.reason,
            "checked": checked,
            "up": changes,
            "paths": [asdict(one) for one in seen],
            "next": f"keyshift resume {self.tenant}" if unfinished else None,
        }

    @contextlib.contextmanager
    def lease(self) -> Iterator[Guard]:
        """The lease, kept through whatever takes long."""
        with self.records.lease(self.tenant, of_a_sealed=True) as fence:
            over = threading.Event()

            def renew() -> None:
                with contextlib.suppress(Conflict):  # sealed again: the next look at the guard says so
                    while not over.wait(RENEW_SECONDS):
                        self.records.renew(self.tenant, fence)

            renewer = threading.Thread(target=renew, daemon=True)
            renewer.start()
            try:
                yield Guard(self.records, self.tenant, fence)
            finally:
                over.set()
                renewer.join()

    def to_lift(self, *, only_lost: bool = False) -> Seal:
        """The seal in force, or one that was lifted by a restore which did not come to its end.

        Raises RefusedInput when there is none, or when the watch (`only_lost`) asks for a person's.
        """
        seal = self.seals.newest(self.tenant)
        if seal is not None and seal.lost is None and only_lost:
            raise RefusedInput(f"tenant {self.tenant} was closed by a person, who opens it", code="sealed")
        if seal is None or seal.open_at is not None:
            raise RefusedInput(
                f"tenant {self.tenant} is not sealed", hint=f"keyshift tenant show {self.tenant}", code="not-sealed"
            )
        return seal

    def _check_and_undo(self, estate: Estate, guard: Guard, seal: Seal, limit: float, wanted: Wanted) -> list[Data]:
        """Raises Conflict when the tenant was sealed again meanwhile; what was opened by then is closed again."""
        self.seals.note_denied(seal, ())  # from here on none is known to hold
        try:
            checked = self._check(estate, guard, seal, limit, wanted)
            self._all_of(guard, denials.data_denials(estate), lambda one: one.undo())
            guard.check()
        except Conflict:
            self._deny(estate, replace(seal, denied=frozenset()))
            raise
        return checked

    def _check(self, estate: Estate, guard: Guard, seal: Seal, limit: float, wanted: Wanted) -> list[Data]:
        """The keys back, then a look at everything as the runner, behind doors that are still closed to others.

        A key that the customer took away is the customer's to give back.
        """
        keys = [] if seal.lost else denials.key_denials(estate)
        # A move that was cut off goes on writing when it is resumed, and proves its copy then.
        held = {} if self.records.unfinished(self.tenant) else self.inventories.of(seal.id)
        self._all_of(guard, keys, lambda one: one.undo())
        try:
            self._until(guard, lambda: _unusable_key(estate), "the keys to be usable", limit)
            self._until(guard, lambda: _silent_search(estate), "the searches to answer", limit)
            return [
                read_back(estate, unit.id, held.get(unit.id), wanted, self._guarded(guard))
                for unit in estate.layout.storages
            ]
        except VerificationFailed:
            denials.carry_out(keys, lambda one: one.deny())
            raise

    def _guarded(self, guard: Guard) -> Report:
        """The report of something long, which stops when the tenant is sealed again."""
        asked = time.monotonic()

        def report(progress: Progress) -> None:
            nonlocal asked
            if time.monotonic() - asked > POLL_SECONDS:
                asked = time.monotonic()
                guard.check()
            self.report(progress)

        return report

    def _all_of(self, guard: Guard, doors: list[Denial], act: Callable[[Denial], str]) -> None:
        """Raises CloudError, naming them, if some could not be opened: the tenant then stays sealed."""

        def guarded(denial: Denial) -> str:
            guard.check()
            return act(denial)

        done = denials.carry_out(doors, guarded)
        guard.check()
        if failed := [f"{one.id}: {one.because}" for one in done if one.failed]:
            raise CloudError(
                f"tenant {self.tenant} stays sealed, because not everything could be opened: {'; '.join(failed)}",
                hint=f"mend that, then: keyshift restore {self.tenant}; to close again: keyshift seal {self.tenant}",
                code="restore-incomplete",
            )

    def bring_up(self, layout: Layout, generation: int, guard: Guard, phase: str) -> Data | None:
        """The stack as the layout; None and only its file while an operation is unfinished, which brings up its own."""
        self.stack.render(layout, generation)
        if self.records.unfinished(self.tenant) is not None:
            return None
        self.stack.recover()
        with tempfile.TemporaryDirectory() as folder:
            plan_file = Path(folder) / "plan.json"
            steps = self.stack.preview(fence=guard.fence, plan_file=plan_file)
            judge(steps, layout)
            guard.check()
            self.stack.up(fence=guard.fence, plan_file=plan_file)
        self.log.append({"event": "up", "operation": None, "phase": phase, "generation": generation})
        return {op: sum(step.op == op for step in steps) for op in sorted({step.op for step in steps})}

    def _until_open(self, estate: Estate, guard: Guard, limit: float) -> list[Seen]:
        """Archive reads what serves again; raises Waiting if it does not within `limit` seconds."""
        if estate.layout.serves is None:
            return []
        serving = {estate.layout.serves.storage, estate.layout.serves.search}
        ways = [way for way in probes.paths(estate, probes.samples(estate), {}) if _only_reads(way, serving)]
        began, seen = time.monotonic(), list[Seen]()
        for way in ways:

            def refusal(way: Way = way) -> str:
                answer = way.attempt()
                return "" if answer.said == "200" else answer.said

            self._until(guard, refusal, f"{way.name} of {way.unit} as {way.role} to work", limit)
            seen.append(Seen(way.name, way.role, way.unit, round(time.monotonic() - began, 1), "200", way.bound))
        return seen

    def _until(self, guard: Guard, obstacle: Callable[[], str], what: str, limit: float) -> None:
        """Polls until there is no obstacle. Raises Waiting after `limit` seconds."""
        began = time.monotonic()
        while said := obstacle():
            guard.check()
            if time.monotonic() - began > limit:
                raise Waiting(
                    f"tenant {self.tenant} is not open yet: {what} took more than {limit:.0f} s ({said})",
                    waits_for=what,
                    hint=f"keyshift restore {self.tenant} goes on waiting",
                    code="still-waiting",
                )
            self.report(Progress(move="wait", waiting=f"{what} ({said})"))
            time.sleep(POLL_SECONDS)


def who() -> str:
    """Who asks: the user of the operating system, at this host."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _only_reads(way: Way, serving: set[str]) -> bool:
    return way.role == "archive" and way.unit in serving and way.name not in {"PUT", "COPY"}


def _unusable_key(estate: Estate) -> str:
    """What KMS answers to the runner for the first key that does not work, "" if all do."""
    kms = estate.client("kms", "runner")
    for key in estate.keys_to_read:
        try:
            kms.generate_data_key(KeyId=estate.key_arn(key.id), KeySpec="AES_256")
        except ClientError as error:
            return f"{key.id}: {aws.code_of(error)}"
    return ""


def _silent_search(estate: Estate) -> str:
    for unit in estate.layout.searches:
        try:
            estate.search(unit.id).cluster.health()
        except (ApiError, TransportError) as error:
            return f"{unit.id}: {type(error).__name__}"
        except CloudError as error:
            if error.cloud_code != "ResourceNotFoundException":  # never made: an update was cut off before it
                raise
    return ""
