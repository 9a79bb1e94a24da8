"""What a caller (CLI, Console) asks about tenants: plain functions from a project to JSON-able data."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components import naming
from migrate import archive, check, events, placement
from migrate.errors import RefusedInput, Waiting
from migrate.files import private_folder, write_private
from migrate.intake import Ids
from migrate.keys import byok, confirmation, wrap
from migrate.keys import ops as key_ops
from migrate.live import Live
from migrate.log import Log
from migrate.operations import OperationKind
from migrate.pending import PendingRotations
from migrate.plan import plan
from migrate.progress import Report
from migrate.records import ENDED, Operation, Records
from migrate.seals import Seals
from migrate.stack import Project, Stack
from migrate.verdict import Verdict, Verdicts
from stacks import config
from stacks.errors import ConfigError
from stacks.first import first_layout
from stacks.layout import KeyState, Layout, Mode
from stacks.record import TenantRecord, connect

Data = dict[str, Any]


def records(project: Project) -> Records:
    return Records(connect(project.home))


def folder(project: Project, name: str) -> Path:
    """Where a tenant's journal, verdicts, log and key requests are kept."""
    return project.home / "tenants" / name


# tenants ----------------------------------------------------------------------------------------


def create(project: Project, name: str, said: Mapping[str, str]) -> Data:
    """A new tenant's record at generation 1, and its stack file. Raises RefusedInput; then nothing was made.

    `said`: customer, keyMode, cloud, stamp and region, as they would stand below `keyshift:` in the stack file;
    without a stamp it is the first of the region that has room.
    """
    try:
        settings = config.parse(naming.tenant_stack(name), said)
    except ConfigError as error:
        raise RefusedInput(
            error.message, hint=error.hint or "keyshift tenant create --help", code="tenant-input"
        ) from error
    if not isinstance(settings, config.TenantSettings):
        raise RefusedInput(f"{name} is no tenant's name", hint="keyshift tenant create --help", code="tenant-input")
    every, wanted = placement.stamps(project), settings.stamp if "stamp" in said else None
    if wanted is not None and wanted not in {stamp.name for stamp in every}:
        raise RefusedInput(
            f"tenant {name} should sit on {settings.stamp}, which has not been brought up in this project",
            hint=f"pulumi stack init {settings.stamp}, then pulumi up -s {settings.stamp}",
            code="no-stamp",
        )
    layout = first_layout(settings)
    placement.refuse_nowhere(layout, every)
    held, placements = records(project), placement.Placements(connect(project.home))
    held.refuse_taken(name)
    stamp = placements.place(layout, every, wanted)
    try:
        Stack(project, naming.tenant_stack(name)).make()  # before the record, because it is what can fail
    except BaseException:
        placements.release(name)
        raise
    held.create(layout.model_copy(update={"stamp": stamp}))
    render(project, name)
    return describe(project, name)


def render(project: Project, name: str) -> Data:
    """Writes the stack file from the record."""
    tenant = records(project).tenant(name)
    stack = Stack(project, naming.tenant_stack(name))
    stack.render(tenant.layout, tenant.generation)
    return {"tenant": name, "generation": tenant.generation, "file": stack.file.name}


def describe(project: Project, name: str) -> Data:
    held = records(project)
    tenant = held.tenant(name)
    return {
        "generation": tenant.generation,
        "layout": tenant.layout.model_dump(mode="json"),
        "sealed": _seal(project, name),
        "next": _next_command(project, tenant, held.unfinished(name)),
    }


def describe_all(project: Project) -> list[Data]:
    held = records(project)
    rows = []
    for tenant in held.tenants():
        layout, operation = tenant.layout.model_dump(mode="json"), held.unfinished(tenant.name)
        row = {name: layout[name] for name in ("tenant", "customer", "mode", "serves", "gate")}
        row["sealed"] = _seal(project, tenant.name)
        rows.append({**row, "operation": operation and f"{operation.id}: {operation.state}"})
    return rows


def status(project: Project, name: str) -> Data:
    """Where a tenant and its last operation stand. Reads the record only; takes no lock."""
    held = records(project)
    tenant = held.tenant(name)
    operations = held.operations(name)
    unfinished, worker = held.unfinished(name), held.worker(name)
    gate, last = tenant.layout.gate, unfinished or (operations[-1] if operations else None)
    is_at_work = worker is not None and unfinished is not None and not unfinished.hint
    return {
        "tenant": name,
        "mode": str(tenant.layout.mode),
        "generation": tenant.generation,
        "sealed": _seal(project, name),
        "jobs": gate.jobs,
        "jobs_since": _jobs_since(gate.jobs, operations),
        "reason": gate.reason,
        "warnings": list(gate.warnings),
        "searches": f"archived before {gate.search_cutoff}" if gate.search_cutoff else "all",
        "worked_on_by": worker,
        "pending_rotation": _pending_rotation(project, tenant.layout, unfinished),
        "operation": last and {**_summary(last), **_whereabouts(last)},
        "next": None if is_at_work else _next_command(project, tenant, unfinished),
    }


def operations(project: Project, name: str) -> list[Data]:
    """The tenant's operations, oldest first: what they came to, how long they took and kept jobs disabled."""
    held = records(project)
    worker = held.worker(name)
    rows = [_summary(operation) for operation in held.operations(name)]
    return [{**row, "worked_on_by": worker if row["state"] not in ENDED else None} for row in rows]


def _summary(operation: Operation) -> Data:
    ended = operation.ended_at
    return {
        "id": operation.id,
        "kind": str(operation.kind),
        "mode": operation.mode,
        "state": operation.state,
        "started_at": operation.started_at.isoformat(),
        "ended_at": ended and ended.isoformat(),
        "seconds": ended and (ended - operation.started_at).total_seconds(),
        "jobs_disabled_seconds": operation.jobs_disabled_seconds,
        "message": operation.message,
        "hint": operation.hint,
    }


def _whereabouts(operation: Operation) -> Data:
    """Phase and step by number and title, since when, and the last progress that was told."""
    kept = dict(operation.progress or {})
    began = {name: kept.pop(name, None) for name in ("phase_began_at", "step_began_at")}
    try:
        found = operation.step and events.place(plan(operation.request, operation.start), operation.step)
    except RefusedInput:  # begun by a version that allowed it
        found = None
    where = found.model_dump() if found else dict.fromkeys(events.Place.model_fields)
    return {**where, "step": operation.step, **began, "progress": kept or None}


def _jobs_since(jobs: str, operations: list[Operation]) -> str | None:
    """Since when the gate is as it is: the last time that an operation turned it. None: it was never turned."""
    turned = [op.jobs_opened_at if jobs == "open" else op.jobs_closed_at for op in operations]
    newest = max((at for at in turned if at), default=None)
    return newest and newest.isoformat()


def last_operation(project: Project, name: str) -> Operation:
    """The newest operation of a tenant. Raises RefusedInput when there was none."""
    operations = records(project).operations(name)
    if not operations:
        raise RefusedInput(f"tenant {name} has had no operation yet", hint=f"keyshift tenant show {name}")
    return operations[-1]


def report(_: Project, operation: Operation) -> Data:
    """What an operation came to: the closing table."""
    found = {step.split("-", 1)[-1]: result for step, result in operation.results.items()}
    ended = operation.ended_at
    left = found.get("prove-empty")
    return {
        "operation": operation.id,
        "state": operation.state,
        "seconds": (ended - operation.started_at).total_seconds() if ended else None,
        "jobs_disabled_seconds": operation.jobs_disabled_seconds,
        "storage": found.get("verify-storage"),
        "index": found.get("verify-index") or found.get("verify-live-index"),
        "rekeyed": found.get("rekey"),
        "drained": found.get("drain"),
        "left_behind": left and left["left_behind"],
        "verdicts": {step: result["verdict"] for step, result in found.items() if result.get("verdict")},
    }


def _seal(project: Project, name: str) -> Data | None:
    """The seal in force: why, since when, by whom."""
    seal = Seals(connect(project.home)).in_force(name)
    return seal and {"reason": seal.reason, "at": seal.at.isoformat(), "by": seal.by}


def _next_command(project: Project, tenant: TenantRecord, unfinished: Operation | None) -> str | None:
    if tenant.sealed:
        return f"keyshift restore {tenant.name}, once it may be opened again"
    if unfinished is not None:
        return unfinished.hint or f"keyshift resume {tenant.name}"
    if (named := confirmation.next_command(tenant.layout)) is not None:
        return named
    pending = _pending_key(tenant.layout)
    if pending is None:
        return None
    if _upload_note(project, tenant.name, pending).exists():
        return _after_upload(tenant, unfinished)
    return f"keyshift key request {tenant.name}"


def _after_upload(tenant: TenantRecord, unfinished: Operation | None) -> str:
    begins = "rotate" if tenant.layout.mode is Mode.BYOK else "enable"
    return f"keyshift {'resume' if tenant.layout.serves is None or unfinished else begins} {tenant.name}"


def _pending_rotation(project: Project, layout: Layout, unfinished: Operation | None) -> Data | None:
    """The rotation that an upload asked for and that has not begun, and the operation that it waits for."""
    if unfinished is not None and unfinished.kind is OperationKind.ROTATE:
        return None
    found = PendingRotations(connect(project.home)).of(layout)
    return found and {"key": found.key, "at": found.at.isoformat(), "behind": unfinished and unfinished.id}


# seal -------------------------------------------------------------------------------------------


def seal(project: Project, name: str, reason: str, limit: float, report: Report) -> Data:
    """Closes a tenant to all but the runner, and tries every path until it is refused."""
    from migrate.seal import Sealer  # noqa: PLC0415 - a second of imports that only operations need

    return Sealer(project, name, report).seal(reason, limit=limit)


# keys -------------------------------------------------------------------------------------------


def has_empty_key(project: Project, name: str) -> bool:
    """Whether a key without material already stands in the cloud, waiting for the customer's."""
    tenant = records(project).tenant(name)
    pending = _pending_key(tenant.layout)
    return pending is not None and pending in Stack(project, naming.tenant_stack(name)).outputs().get("keys", {})


def key_request(project: Project, name: str, into: Path) -> Data:
    """Gets the wrapping key of the tenant's empty key and puts its public half into a folder."""
    records(project).refuse_sealed(name)
    tenant = records(project).tenant(name)
    key = _pending_key(tenant.layout)
    if key is None:
        raise RefusedInput(
            f"tenant {name} has no key that waits for its material",
            hint=f"keyshift key list {name}",
            code="no-empty-key",
        )
    live = Live.find(project, name)
    made = key_ops.of(live).request(key, folder(project, name) / "key-requests", into)
    return {
        "tenant": name,
        "key": key,
        "public_key": str(made.public_key),
        "valid_until": made.valid_until,
        "openssl": made.openssl,
        "wrap": made.wrap,
    }


_UPLOAD_HINTS = {
    "import-token-expired": "keyshift key request {name}, then have the same key wrapped with its new public key",
    "import-token-invalid": "keyshift key request {name}, then have the same key wrapped with its new public key",
    "key-not-unwrapped": "keyshift key wrap, with the public key of this request: keyshift key request {name}",
    "no-import-request": "keyshift key request {name}, then have a key wrapped with its public key",
    "key-already-imported": "keyshift key list {name} shows what it holds; for another key: keyshift key request {name}",
    "key-state": "keyshift key list {name}",
}
"""What to type next, where `keys.imported`, which knows no tenants, can only describe it."""


def key_upload(project: Project, name: str, file: Path, sha256: str) -> Data:
    """Imports the customer's wrapped key. Uploading the same file twice changes nothing."""
    tenant = records(project).tenant(name)
    imported_keys = [one.id for one in tenant.layout.keys if one.arn is None]
    if not imported_keys:
        raise RefusedInput(
            f"tenant {name} has no key to import into", hint=f"keyshift key request {name}", code="no-empty-key"
        )
    records(project).refuse_sealed(name)
    wrapped = read(file)
    live = Live.find(project, name)
    key = _pending_key(tenant.layout) or imported_keys[-1]
    try:
        found = key_ops.of(live).upload(key, wrapped, sha256, folder(project, name) / "key-requests")
    except (RefusedInput, Waiting) as refused:
        refused.message = f"{file}: {refused.message}"
        if refused.code in _UPLOAD_HINTS:
            refused.hint = _UPLOAD_HINTS[refused.code].format(name=name)
        raise
    note_upload(project, name, key, fingerprint=found.material, sha256=found.sha256)
    unfinished = records(project).unfinished(name)
    if tenant.layout.mode is Mode.BYOK and tenant.layout.serves is not None:
        PendingRotations(connect(project.home)).note(name, key)
    return {
        "tenant": name,
        "key": key,
        "state": "imported before; nothing was changed" if found.already else "imported",
        "fingerprint": found.material,
        "sha256": found.sha256,
        "pending_rotation": _pending_rotation(project, tenant.layout, unfinished),
        "next": _after_upload(tenant, unfinished),
    }


def keys(project: Project, name: str) -> list[Data]:
    """The tenant's keys as the layout and as KMS see them."""
    tenant = records(project).tenant(name)
    if not tenant.layout.keys:
        return []
    live = Live.find(project, name)
    ops, rows = key_ops.of(live), []
    for key in tenant.layout.keys:
        described = ops.describe(key.id)
        users = [u.id for u in (*tenant.layout.storages, *tenant.layout.searches) if u.key == key.id]
        rows.append(
            {
                "id": key.id,
                "state": str(key.state),
                "kms_state": described.state,
                "used_by": ", ".join(users) or "nothing",
                "fingerprint": described.material,
                "arn": described.id,
                "made_at": described.made_at,
                "ends_at": described.ends_at,
            }
        )
    return rows


def wrap_key(public_key: Path, output: Path, key: Path | None, keep: Path | None) -> Data:
    """The customer's side: wraps a key, needs no cloud and no tenant."""
    made = wrap.wrap(read(public_key), read(key) if key else None)
    wrap.save(made, output, keep)
    return {
        "file": str(output),
        "bytes": len(made.wrapped),
        "sha256": made.wrapped_sha256,
        "kept": str(keep) if keep else None,
    }


def wrap_key_for_azure(kek: Path, output: Path, key: Path | None, keep: Path | None) -> Data:
    """The customer's side for a vault: wraps an RSA private key, needs no cloud and no tenant."""
    made = byok.wrap(byok.KeyExchangeKey.read(read(kek)), read(key) if key else None)
    if keep is not None:
        wrap.keep_plaintext(made.private_key, keep)
    write_private(output, made.file)
    return {
        "file": str(output),
        "bytes": len(made.file),
        "sha256": made.sha256,
        "kept": str(keep) if keep else None,
    }


def note_upload(project: Project, name: str, key: str, *, fingerprint: str, sha256: str) -> None:
    """So that `tenant show` knows, without asking the cloud, that a key has its material.

    A kill before it costs nothing: the same file given again answers as before, and is noted.
    """
    note = _upload_note(project, name, key)
    private_folder(note.parent)
    write_private(note, json.dumps({"fingerprint": fingerprint, "sha256": sha256}).encode())


def _upload_note(project: Project, name: str, key: str) -> Path:
    return folder(project, name) / "key-requests" / f"{key}-uploaded.json"


def _pending_key(layout: Layout) -> str | None:
    """The newest key of ours without the customer's material; one in their own account is not imported into."""
    pending = [key.id for key in layout.keys if key.state is KeyState.PENDING and key.arn is None]
    return pending[-1] if pending else None


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RefusedInput(f"{file} cannot be read: {error.strerror}", hint="name an existing file") from error


# archive ----------------------------------------------------------------------------------------


def archive_import(project: Project, name: str, path: Path, ids: Ids, report: Report) -> Data:
    """Loads records and attachments as the Archive service, under its role."""
    live = Live.find(project, name)
    began = time.monotonic()
    found = archive.import_path(live.storage(live.serves.storage, "archive"), path, ids, report)
    return {**asdict(found), "seconds": round(time.monotonic() - began, 1)}


def encryption(project: Project, name: str) -> Data:
    """Which key encrypts what serves, as the cloud says it, not as the layout does."""
    live = Live.find(project, name)
    search = live.outputs["searches"][live.serves.search]
    bucket, key = live.cloud.encryption(live.serves.storage)
    return {
        "bucket": bucket,
        "bucket_key": key,
        "deployment": search["deployment_id"],
        "deployment_key": search["key_arn"],
    }


# verdicts ---------------------------------------------------------------------------------------


def verdicts(project: Project, name: str) -> list[Data]:
    """The tenant's verdicts, oldest first, each with its signature checked."""
    records(project).tenant(name)
    return [_verdict(found) for found in Verdicts(folder(project, name)).all()]


def verdict(project: Project, name: str, id: str) -> Data:
    """One verdict. Raises RefusedInput when there is none, VerificationFailed when its signature does not fit."""
    records(project).tenant(name)
    found = Verdicts(folder(project, name)).load(id)
    if found is None:
        raise RefusedInput(
            f"tenant {name} has no verdict {id}", hint=f"keyshift verdict list {name}", code="unknown-verdict"
        )
    return _verdict(found)


def verdict_proof(project: Project, name: str, id: str, key: str) -> list[Data]:
    """That one object is covered: each version's leaf and its way to the signed root."""
    verdict(project, name, id)
    found = Verdicts(folder(project, name)).load(id)
    assert found is not None  # noqa: S101 - said so above
    return check.proof(folder(project, name), found, key)


def check_verdicts(project: Project, name: str, id: str | None, report: Report) -> Data:
    """Re-checks one verdict, or all of a tenant: signatures, the log's chain, and what lives now.

    Raises VerificationFailed for a forged verdict or a broken log; a difference in the data is in the result.
    """
    if id is not None:
        verdict(project, name, id)
    records(project).tenant(name)
    state = folder(project, name)
    every = Verdicts(state).all()
    if not every:
        raise RefusedInput(f"tenant {name} has no verdicts yet", hint=f"keyshift tenant show {name}")
    log = check.check_log(Log(state), every)
    live, unfinished = Live.find(project, name), records(project).unfinished(name)
    under_way = unfinished.id if unfinished else None
    checks = [
        asdict(check.check(live, state, one, report, under_way=under_way)) for one in every if id in (None, one.id)
    ]
    return {"tenant": name, "log": log, "holds": all(c["result"] != check.DIFFERS for c in checks), "checks": checks}


def _verdict(found: Verdict) -> Data:
    counts = found.counts
    return {**found.model_dump(mode="json"), "count": counts.get("versions", counts.get("found")), "signature": "fits"}
