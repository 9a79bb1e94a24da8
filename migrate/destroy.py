"""The end of a key: destroyed by us under a signed certificate, or declared lost by its owner.

A key is destroyed only when nothing lies under it, or when the tenant is revoked and what lies under it is meant
to go with it (crypto-shredding). The order is: refuse, withdraw in the layout, note the intent, call KMS, see the
key refused, sign.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from migrate import aws, durable
from migrate.certificates import Certificates
from migrate.denials import Estate
from migrate.errors import RefusedInput, Waiting
from migrate.fates import Fate, Fates, KeyFate
from migrate.guard import Guard
from migrate.integrity import take
from migrate.plan.revocation import is_revoked
from migrate.progress import Progress, Report
from migrate.seal import POLL_SECONDS, Sealer, who
from migrate.stack import Project
from migrate.watching.findings import LOST, cause_of
from migrate.watching.observe import canary, describe
from stacks.layout import Key, KeyState, Layout
from stacks.record import connect

Data = dict[str, Any]

MIN_DAYS, MAX_DAYS = 7, 30
"""KMS API, ScheduleKeyDeletion, PendingWindowInDays."""
DEAD = "PendingDeletion"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What was ordered. `at_once`: the imported material goes now and only the empty key waits `days` for its end."""

    key: str
    reason: str
    days: int = MAX_DAYS
    at_once: bool = False


def phrase(tenant: str, key: str) -> str:
    """What has to be typed: it names what is lost."""
    return f"destroy {key} of {tenant}"


class Destroyer:
    """Ends keys of one tenant."""

    def __init__(self, project: Project, tenant: str, report: Report) -> None:
        self.sealer = Sealer(project, tenant, report)
        self.tenant, self.report = tenant, report
        self.records, self.log = self.sealer.records, self.sealer.log
        self.fates = Fates(connect(project.home))
        self.certificates = Certificates(self.sealer.folder)

    # destroy ----------------------------------------------------------------------------------

    def is_done(self, key: str) -> bool:
        """Whether a certificate says that the key was destroyed before."""
        return self.certificates.load(_name(key)) is not None

    def refuse(self, order: Order) -> None:
        """Raises RefusedInput for an order that cannot be carried out; nothing was changed then."""
        layout = self.records.tenant(self.tenant).layout
        key = self._key(layout, order.key)
        if not order.reason.strip():
            raise self._refusal("destroying a key needs a reason", "no-reason", f"keyshift key destroy {self.tenant}")
        if not MIN_DAYS <= order.days <= MAX_DAYS:
            raise self._refusal(
                f"KMS deletes a key after {MIN_DAYS} to {MAX_DAYS} days, not after {order.days}",
                "window",
                f"keyshift key destroy {self.tenant} {key.id} --days {MIN_DAYS}",
            )
        if key.arn is not None:
            raise self._refusal(
                f"{key.id} lies in the customer's account, where only the customer destroys it",
                "customers-key",
                f"keyshift revoke {self.tenant}, to close what lies under it",
            )
        if key.state is KeyState.PENDING:
            raise self._refusal(f"{key.id} holds nothing yet", "key-empty", f"keyshift key list {self.tenant}")
        users = [unit.id for unit in (*layout.storages, *layout.searches) if unit.key == key.id]
        if users and not is_revoked(layout):
            raise self._refusal(
                f"{', '.join(users)} of tenant {self.tenant} lie under {key.id} and would be lost",
                "key-in-use",
                f"if they are meant to be lost: keyshift revoke {self.tenant}; else rotate first",
            )
        unfinished = self.records.unfinished(self.tenant)
        if unfinished is not None:
            raise self._refusal(
                f"tenant {self.tenant} is in the middle of {unfinished.id}",
                "operation-unfinished",
                f"keyshift resume {self.tenant}",
            )

    def destroy(self, order: Order, *, limit: float) -> Data:
        """Destroys a key and returns the signed certificate. The same order again returns the same one.

        Raises RefusedInput (nothing was changed), Waiting when the key is not refused within `limit` seconds.
        """
        done = self.certificates.load(_name(order.key))
        if done is not None:
            return self._result(order.key, done, already=True)
        self.refuse(order)
        with durable.single_runner(self.sealer.folder, self.tenant), self.sealer.lease() as guard:
            self._withdraw(order.key, guard)
            estate = self.sealer.estate()
            under = self._under(estate, order.key)
            arn = estate.key_arn(order.key)
            about = {"key": order.key, "arn": arn, "by": who(), "reason": order.reason, "at_once": order.at_once}
            self.log.append({"event": "key-destroying", **about})
            guard.check()
            came_to = _destroy(estate, arn, order)
            self.fates.put(self._fate(order.key, Fate.DESTROYED, order.reason))
            seen = self._until_refused(estate, arn, limit)
        certificate = {
            "certificate": "key-destroyed",
            "tenant": self.tenant,
            "customer": estate.layout.customer,
            "key": order.key,
            "arn": arn,
            "by": who(),
            "reason": order.reason,
            "at": datetime.now(UTC).isoformat(),
            **came_to,
            **seen,
            "under_it": under,
            "says": _says(order, came_to),
        }
        digest = self.certificates.store(_name(order.key), certificate)
        self.log.append({"event": "key-destroyed", "key": order.key, "arn": arn, "certificate_sha256": digest})
        return self._result(order.key, certificate, already=False)

    def _withdraw(self, key: str, guard: Guard) -> None:
        """The stack no longer wants the key enabled: a later `up` would try to, and fail."""
        layout = self.records.tenant(self.tenant).layout
        keys = tuple(k.model_copy(update={"state": KeyState.REVOKED}) if k.id == key else k for k in layout.keys)
        wanted = layout.model_copy(update={"keys": keys})
        if wanted != layout:
            generation = self.records.advance(wanted, guard.fence)
            self.sealer.bring_up(wanted, generation, guard, "withdraw-key")

    def _under(self, estate: Estate, key: str) -> Data:
        """What lay under the key, by a listing, which needs no key."""
        layout = _narrowed(estate.layout, key)
        counted, problems = take(_with(estate, layout), None, self.report)
        return {
            "storages": [{"storage": c.storage, "versions": c.versions, "bytes": c.bytes} for c in counted],
            "searches": [unit.id for unit in layout.searches],
            "uncounted": problems,
        }

    def _until_refused(self, estate: Estate, arn: str, limit: float) -> Data:
        began = time.monotonic()
        kms = estate.client("kms", "runner")
        while True:
            try:
                kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
            except ClientError as error:
                if aws.code_of(error) in {"KMSInvalidStateException", "NotFoundException", "DisabledException"}:
                    return {"refused_after": round(time.monotonic() - began, 1), "refused_with": aws.code_of(error)}
                raise
            if time.monotonic() - began > limit:
                raise Waiting(
                    f"KMS has taken the order, but {arn} was still used after {limit:.0f} s",
                    waits_for="KMS to refuse the key",
                    hint=f"the same command again writes the certificate: keyshift key destroy {self.tenant}",
                    code="still-usable",
                )
            self.report(Progress(move="wait", waiting="KMS to refuse the key"))
            time.sleep(POLL_SECONDS)

    def _result(self, key: str, certificate: Data, *, already: bool) -> Data:
        return {**certificate, "file": str(self.certificates.path(_name(key))), "already": already}

    # declare lost -----------------------------------------------------------------------------

    def declare_lost(self, key: str, reason: str, *, limit: float) -> Data:
        """Writes down that a key is lost, seals the tenant, and says what is lost with it and what can still be done.

        Raises RefusedInput when the key still works, or when it cannot be told: nothing was changed then.
        """
        layout = self.records.tenant(self.tenant).layout
        unit = self._key(layout, key)
        if not reason.strip():
            raise self._refusal("declaring a key lost needs a reason", "no-reason", "keyshift key declare-lost --help")
        estate = self.sealer.estate()
        heard, of = canary(estate, unit)
        if heard.is_success:
            raise self._refusal(f"{key} works: {of} was read just now", "key-not-lost", "keyshift watch --once")
        if cause_of(heard) not in LOST:
            raise self._refusal(f"{key} cannot be told to be lost: {heard.code}", "unclear", "keyshift watch --once")
        described = describe(estate, unit)
        sealed = self.sealer.seal(f"{key} is lost: {reason}", limit=limit, count_at_most=None)
        self.fates.put(self._fate(key, Fate.LOST, reason))
        under = self._under(estate, key)
        self.log.append({"event": "key-declared-lost", "key": key, "by": who(), "reason": reason, "under_it": under})
        return {
            "tenant": self.tenant,
            "key": key,
            "reason": reason,
            "state": described.state or described.heard.code,
            "said": heard.code,
            "lost": under,
            "still_open": sealed["still_open"],
            "remains": [
                f"if its owner finds the key, or imports the same material again: keyshift restore {self.tenant}",
                "what does not lie under it can still be read by the runner",
                f"or all of it can be deleted, which needs no key: keyshift delete {self.tenant} --confirm {self.tenant}",
            ],
        }

    def _fate(self, key: str, fate: Fate, reason: str) -> KeyFate:
        return KeyFate(tenant=self.tenant, key=key, fate=fate, by=who(), at=datetime.now(UTC), reason=reason)

    def _key(self, layout: Layout, key: str) -> Key:
        found = next((one for one in layout.keys if one.id == key), None)
        if found is None:
            known = ", ".join(one.id for one in layout.keys) or "none"
            raise self._refusal(
                f"tenant {self.tenant} has no key {key} (it has: {known})",
                "unknown-key",
                f"keyshift key list {self.tenant}",
            )
        return found

    @staticmethod
    def _refusal(message: str, code: str, hint: str) -> RefusedInput:
        return RefusedInput(f"{message}; nothing was changed", hint=hint, code=code)


def _destroy(estate: Estate, arn: str, order: Order) -> Data:
    """The calls, each left out where it was made before. Returns what KMS says of the key then."""
    kms = estate.client("kms")
    before = kms.describe_key(KeyId=arn)["KeyMetadata"]
    if before["KeyState"] != DEAD:
        if order.at_once and before["KeyState"] != "PendingImport":
            kms.delete_imported_key_material(KeyId=arn)
        kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=order.days)
    after = kms.describe_key(KeyId=arn)["KeyMetadata"]
    date = after.get("DeletionDate")
    return {
        "method": "DeleteImportedKeyMaterial, ScheduleKeyDeletion" if order.at_once else "ScheduleKeyDeletion",
        "fingerprint": before.get("CurrentKeyMaterialId", ""),
        "kms_state": after["KeyState"],
        "deletion_date": date.isoformat() if date else None,
    }


def _says(order: Order, came_to: Data) -> str:
    until = f"until {came_to['deletion_date']}"
    if order.at_once:
        return (
            "The key material was deleted from KMS and the key, which nobody can use, ends by itself. Who keeps the "
            f"plaintext key could import it again, after cancelling the deletion, {until}."
        )
    return (
        "Nobody can use the key. Its deletion could be cancelled, by an administrator of the account, "
        f"{until}; after that what lay under it can never be read again."
    )


def _name(key: str) -> str:
    return f"{key}-destroyed"


def _narrowed(layout: Layout, key: str) -> Layout:
    """The layout with only what lies under a key."""
    return layout.model_copy(
        update={
            "storages": tuple(unit for unit in layout.storages if unit.key == key),
            "searches": tuple(unit for unit in layout.searches if unit.key == key),
        }
    )


def _with(estate: Estate, layout: Layout) -> Estate:
    return replace(estate, layout=layout)
