"""The customer rotated their key: see it, pause, keep warning, and go on once they have confirmed.

KMS tells nobody of another account when an alias moves or a material changes, so this looks, again and again
(`keyshift key follow`, or the watch). Each look may be the first after a kill, so it starts from the record alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from migrate.errors import RefusedInput, Waiting
from migrate.events import Scribe, Tell
from migrate.keys import confirmation
from migrate.keys.check import Report, check, describe
from migrate.live import Live
from migrate.log import Log
from migrate.operations import OperationKind
from migrate.plan.parts import next_id
from migrate.records import Operation, Records
from migrate.runner import Runner
from migrate.stack import Project
from stacks.layout import Key, KeyState, Layout
from stacks.record import connect

Data = dict[str, Any]
UNCHANGED, WAITS, PAUSED, NOTED, QUEUED = "unchanged", "waits", "paused", "noted", "queued"
IN_USE = frozenset({KeyState.PENDING, KeyState.ACTIVE})


@dataclass(frozen=True)
class Look:
    """What one look at an alias came to. `key`: the key of now, as a layout would hold it.

    `is_news`: it differs from what was last seen. `is_barred`: the alias leads to a key that we may not see, or that is
    another customer's; `key` is the old one then.
    """

    key: Key
    is_news: bool
    is_barred: bool
    missing: str = ""


class Rotations:
    """The rotations of one tenant under a key of its customer's own account."""

    def __init__(self, project: Project, tenant: str, tell: Tell, *, patience: float = 0.0) -> None:
        self._project, self._tell, self._patience = project, tell, patience
        self.records = Records(connect(project.home))
        self.tenant = self.records.tenant(tenant).name
        self._log = Log(project.home / "tenants" / self.tenant)

    @property
    def layout(self) -> Layout:
        return self.records.tenant(self.tenant).layout

    def follow(self) -> Data:
        """Looks where the alias leads; a rotation pauses the tenant, one that waits is warned of again.

        Raises RefusedInput for a tenant that is under no such key, or is sealed.
        """
        self.records.refuse_sealed(self.tenant)
        unfinished = self.records.unfinished(self.tenant)
        look = self._look(unfinished)
        if unfinished is not None and unfinished.kind is not OperationKind.ROTATE:
            came = QUEUED if look.is_news else UNCHANGED
            return self._told(came, look, f"{unfinished.id} comes first: keyshift resume {self.tenant}")
        if look.is_news:
            return self._begin(look, unfinished)
        if unfinished is None:
            return self._told(UNCHANGED, look, "")
        return self._warned(look, self._resumed())

    def confirm(self, token: str, by: str) -> Operation:
        """Goes on with what was seen and confirmed. Raises RefusedInput when it is not what is seen now."""
        self.records.refuse_sealed(self.tenant)
        operation, layout = self._waiting_for_confirmation(), self.layout
        wanted = confirmation.token(operation.id, layout)
        if not hmac.compare_digest(wanted.encode(), token.strip().encode()):
            raise RefusedInput(
                f"the token is not that of the rotation which tenant {self.tenant} waits for; nothing was changed",
                hint=f"somebody may have rotated again: keyshift status {self.tenant} tells the present token",
                code="token-stale",
            )
        look = self._look(operation)
        if look.is_news:
            raise RefusedInput(
                f"the customer has rotated again since the token of {operation.id} was given: it is stale; "
                "nothing was changed",
                hint=f"keyshift key follow {self.tenant} takes it in and gives a new token",
                code="token-stale",
            )
        if look.missing:
            raise Waiting(
                f"the key of tenant {self.tenant} cannot be used: {look.missing}",
                waits_for="the customer to mend the key's policy",
                hint=f"keyshift key policy {self.tenant} prints what is missing; then confirm again",
                code="key-unfit",
            )
        about = {"operation": operation.id, "key": look.key.arn, "material": look.key.material}
        self._log.append({"event": "rotation-confirmed", "by": by, "token": wanted, **about})
        return self._runner().take_over(operation, OperationKind.CONFIRM, state="done")

    # what is there ----------------------------------------------------------------------------

    def _look(self, unfinished: Operation | None) -> Look:
        layout = self.layout
        now = _default_key(layout)
        last = now
        if unfinished is not None and unfinished.kind is OperationKind.ROTATE and unfinished.request.key is not None:
            last = unfinished.request.key
        was_barred = unfinished is not None and unfinished.request.is_barred
        live = Live.find(self._project, self.tenant)
        alias, ways = confirmation.alias_of(layout, now.id), confirmation.ways(live, now.id)
        seen, findings = describe(ways.describer, alias)
        if seen is None:
            said = Report(alias.arn, None, findings).summary()
            return self._barred(live, now, said, is_news=not was_barred)
        if self._is_foreign(layout, seen.arn):
            said = f"{seen.arn} is bound to another customer, and one key never serves two"
            return Look(now, is_news=not was_barred, is_barred=True, missing=said)
        known = next((k for k in layout.keys if k.arn == seen.arn and k.state in IN_USE), None)
        if last.arn == seen.arn and known is None:
            known = last
        # Where KMS did not say which material is current, only the ARN can tell.
        is_same = seen.arn == last.arn and (None in {seen.material, last.material} or seen.material == last.material)
        # Of the bucket's default key alone are there a bucket and a search to try; of another one not yet.
        tried = ways if seen.arn == now.arn else confirmation.bare(ways)
        report = check(alias, tried)
        missing = report.summary()
        state = KeyState.ACTIVE if known is not None and known.state is KeyState.ACTIVE else KeyState.PENDING
        key = Key(
            id=known.id if known else next_id(layout.keys, "k"),
            state=state if missing else KeyState.ACTIVE,
            arn=seen.arn,
            alias=alias.arn,
            material=seen.material or (known.material if known else None),
        )
        return Look(key, is_news=not is_same or was_barred, is_barred=False, missing=missing)

    def _barred(self, live: Live, now: Key, said: str, *, is_news: bool) -> Look:
        """The alias cannot be followed. Only where the old key itself works has it been moved; else a key was lost.

        Raises RefusedInput for a lost key: that is a revocation, and the watch's.
        """
        lost = self._refusal(live, now)
        if lost:
            raise RefusedInput(
                f"neither the alias nor the key of tenant {self.tenant} can be used ({said}; {lost}): "
                "that is no rotation; nothing was changed",
                hint=f'if the customer has revoked it: keyshift seal {self.tenant} --reason "…"',
                code="key-unusable",
            )
        return Look(now, is_news=is_news, is_barred=True, missing=said)

    @staticmethod
    def _refusal(live: Live, key: Key) -> str:
        ways = confirmation.ways(live, key.id)
        by_arn = confirmation.try_key(ways, live.key_arn(key.id))
        return "; ".join(one.says for one in by_arn)

    def _is_foreign(self, layout: Layout, arn: str) -> bool:
        owner = self.records.key_owners([], also={arn}).get(arn)
        return owner not in {None, layout.customer}

    def _waiting_for_confirmation(self) -> Operation:
        operation = self.records.unfinished(self.tenant)
        waits = operation is not None and operation.kind is OperationKind.ROTATE and operation.state == "waiting"
        if operation is None or not waits or not (operation.step or "").endswith("-confirmed"):
            at = f"{operation.id} is {operation.state} in {operation.step}" if operation else "no operation waits"
            raise RefusedInput(
                f"tenant {self.tenant} waits for no confirmation: {at}",
                hint=f"keyshift status {self.tenant}",
                code="nothing-to-confirm",
            )
        return operation

    # what is done -----------------------------------------------------------------------------

    def _begin(self, look: Look, unfinished: Operation | None) -> Data:
        asked: Data = {"key": look.key.model_dump(mode="json")}
        if look.is_barred:
            asked["is_barred"] = True
        runner = self._runner()

        def begun() -> Operation:
            if unfinished is None:
                return runner.run(OperationKind.ROTATE, asked=asked)
            return runner.take_over(unfinished, OperationKind.ROTATE, state="aborted", asked=asked)

        waiting = _waited(begun)
        if waiting is None:
            return self._told(NOTED, look, "")
        return {**self._warned(look, waiting), "came": PAUSED}

    def _resumed(self) -> Waiting | None:
        return _waited(self._runner().resume)

    def _warned(self, look: Look, waiting: Waiting | None) -> Data:
        """Says it once more, to whoever watches and in the log."""
        operation, layout = self.records.unfinished(self.tenant), self.layout
        scribe = Scribe(self._tell, tenant=self.tenant, operation=operation.id if operation else None)
        for warning in layout.gate.warnings:
            scribe.warned(warning)
        self._log.append({"event": "rotation-waits", "operation": operation and operation.id})
        hint = waiting.hint if waiting else f"keyshift status {self.tenant}"
        return self._told(WAITS, look, hint)

    def _told(self, came: str, look: Look, hint: str) -> Data:
        layout, operation = self.layout, self.records.unfinished(self.tenant)
        waits = came in {WAITS, PAUSED} and operation is not None and not look.is_barred and not look.missing
        return {
            "tenant": self.tenant,
            "came": came,
            "alias": look.key.alias,
            "key": None if look.is_barred else look.key.arn,
            "material": None if look.is_barred else look.key.material,
            "missing": look.missing,
            "operation": operation and operation.id,
            "jobs": layout.gate.jobs,
            "warnings": list(layout.gate.warnings),
            "token": confirmation.token(operation.id, layout) if waits and operation else None,
            "next": hint or None,
        }

    def _runner(self) -> Runner:
        return Runner(self._project, self.tenant, self._tell, patience=self._patience)


def on_rotation(project: Project, tenant: str, _finding: object = None, *, tell: Tell = lambda _: None) -> Data:
    """What the watch calls when it has seen a rotation; it looks itself once more, and may be called again and again."""
    return Rotations(project, tenant, tell).follow()


def _waited(run: Callable[[], Operation]) -> Waiting | None:
    """What an operation waits for; None if it has ended."""
    try:
        run()
    except Waiting as waiting:
        return waiting
    return None


def _default_key(layout: Layout) -> Key:
    """The key under which new objects come. Raises RefusedInput where it is none of the customer's own account."""
    id = layout.storage(layout.serves.storage).key if layout.serves else None
    if id is None or layout.key(id).alias is None:
        raise RefusedInput(
            f"tenant {layout.tenant} is not under a key of its customer's own account, so there is nothing to follow",
            hint=f"keyshift key list {layout.tenant}",
            code="no-customer-key",
        )
    return layout.key(id)
